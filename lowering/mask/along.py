"""Words that look along a dimension: running sums, differences of neighbours, triangles."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sympy
import torch

from tile_backend.lowering.mask import elements
from tile_backend.lowering.mask.elements import Elements, Indices, NotExplained
from tile_backend.lowering.mask.words import (
    Element,
    word,
)
from tile_backend.lowering.node import shape


@word(torch.cumsum, "cumsum")
def running_sum(fake: Any, input: Any, dim: Any, *, dtype: Any = None) -> Any:
    """Of what is the same at every index along the dimension; another sum stays a read."""
    place = dim % len(input.shape)
    if fake.dtype not in elements.WIDE or input.dtype.is_floating_point:
        return None

    def at(indices: Indices) -> Any:
        anywhere = sympy.Dummy("i", integer=True, nonnegative=True)
        element = input.at((*indices[:place], anywhere, *indices[place + 1 :]))
        element = elements.as_number(element)
        if anywhere in element.free_symbols:
            raise NotExplained
        return elements.exact(element * (indices[place] + 1), fake.dtype)

    return Elements(shape(fake), fake.dtype, at)


@word(torch.diff, "diff")
def differences(
    fake: Any, input: Any, n: Any = 1, dim: Any = -1, prepend: Any = None, append: Any = None
) -> Any:
    """Of neighbours, where that with what is prepended is the same as all others."""
    if n != 1 or append is not None or input.dtype is torch.bool or fake.dtype.is_floating_point:
        return None
    place = dim % len(input.shape)
    if prepend is not None and prepend.shape[place] != 1:
        return None

    def at(indices: Indices) -> Any:
        def moved(step: int) -> Indices:
            return (*indices[:place], indices[place] + step, *indices[place + 1 :])

        if prepend is None:
            return sympy.expand(input.at(moved(1)) - input.at(indices))
        zero = (*indices[:place], sympy.Integer(0), *indices[place + 1 :])
        first = sympy.expand(input.at(zero) - prepend.at(zero))
        later = sympy.expand(input.at(indices) - input.at(moved(-1)))
        if first != later:
            raise NotExplained
        return first

    return Elements(shape(fake), fake.dtype, at)


def triangle(keeps: Element) -> Callable[..., Elements]:
    """keeps: (column - row, diagonal) -> whether the element stays; others are zero."""

    def meaning(fake: Any, input: Any, diagonal: Any = 0) -> Elements:
        nothing = elements.literal(0, fake.dtype)

        def at(indices: Indices) -> Any:
            kept = keeps(indices[-1] - indices[-2], diagonal)
            return elements.chosen(kept, input.at(indices), nothing)

        return Elements(shape(fake), fake.dtype, at)

    return meaning


word("tril", torch.tril)(triangle(sympy.Le))
word("triu", torch.triu)(triangle(sympy.Ge))
