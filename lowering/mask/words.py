"""The registry of words, and what element-wise ones have in common.

A word is called with the fake result of a call and the call's arguments, tensors as Elements and
sizes as expressions; it gives the result's Elements, or None where it does not know the call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sympy
import torch

from tile_backend.lowering.mask import elements
from tile_backend.lowering.mask.elements import Elements, NotExplained
from tile_backend.lowering.node import Size, shape

WORDS: dict[Any, Callable[..., Elements | None]] = {}
Element = Callable[..., Any]


def word(*names: Any) -> Callable[[Any], Any]:
    """Register a word for method names and functions."""

    def register(function: Any) -> Any:
        WORDS.update(dict.fromkeys(names, function))
        return function

    return register


def operand(given: Any, dtype: torch.dtype, wide: tuple[Size, ...]) -> Element:
    """The formula of an operand in the broader shape, as a number of the dtype given."""
    if not isinstance(given, Elements):
        element = elements.literal(given, dtype)
        return lambda indices: element
    found, source = elements.broadcast(given, wide), given.dtype
    return lambda indices: elements.converted(found(indices), source, dtype)


def elementwise(fake: torch.Tensor, dtype: torch.dtype, function: Element, *given: Any) -> Elements:
    """Operands are converted to `dtype`; the function makes an element of the result of theirs."""
    wide = shape(fake)
    operands = [operand(x, dtype, wide) for x in given]
    return Elements(wide, fake.dtype, lambda i: function(*(x(i) for x in operands)))


def common(*given: Any) -> torch.dtype:
    """The dtype in which torch computes with these operands."""
    tensors = [x for x in given if isinstance(x, Elements)]
    wide = [x for x in tensors if x.shape] or tensors  # a 0-d tensor does not widen its category
    found = wide[0].dtype
    for x in wide[1:]:
        found = torch.promote_types(found, x.dtype)
    for x in given:
        kind = x.dtype if isinstance(x, Elements) else number_dtype(x)
        if category(kind) > category(found):
            found = kind
    return found


def number_dtype(given: Any) -> torch.dtype:
    """Of a Python number or a size."""
    if isinstance(given, bool):
        return torch.bool
    if isinstance(given, float):
        return torch.get_default_dtype()
    if isinstance(given, (int, sympy.Expr)):
        return torch.int64
    raise NotExplained


def is_integer(given: Any) -> bool:
    """A Python integer or a size."""
    return isinstance(given, (int, sympy.Expr)) and not isinstance(given, bool)


def category(dtype: torch.dtype) -> int:
    """Booleans, integers, floating-point numbers, complex ones."""
    return 3 if dtype.is_complex else 2 if dtype.is_floating_point else int(dtype is not torch.bool)
