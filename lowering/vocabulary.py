"""The names of torch: which function, method or operator is which canonical operation.

`FUNCTIONS` and `METHODS` map a call target to a function that turns the call into a term. Its
Python signature is torch's: a call that does not bind (an unknown keyword such as `alpha=` where we
do not read it) has no canonical name and stays a leaf. Adding a spelling of an op is adding a name.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any

import sympy
import torch

from tile_backend.lowering.identities import cast, operand
from tile_backend.lowering.node import Size, shape
from tile_backend.lowering.terms import SymbolicNumber, Term, TermTable

Meaning = Term | tuple[Term, ...] | None
Word = Callable[..., Meaning]


@dataclasses.dataclass(frozen=True)
class Result:
    """What a call returned: the fake value, with its canonical dtype and shape."""

    value: Any

    @property
    def dtype(self) -> torch.dtype:
        return self.value.dtype  # type: ignore[no-any-return]

    @property
    def shape(self) -> tuple[Size, ...]:
        return shape(self.value)

    @property
    def is_float(self) -> bool:
        return isinstance(self.value, torch.Tensor) and self.value.dtype.is_floating_point


FUNCTIONS: dict[Any, Word] = {}
METHODS: dict[str, Word] = {}


def word(*names: Any) -> Callable[[Word], Word]:
    """Register a meaning for method names (strings) and functions (anything else)."""

    def register(meaning: Word) -> Word:
        for name in names:
            if isinstance(name, str):
                METHODS[name] = meaning
            else:
                FUNCTIONS[name] = meaning
        return meaning

    return register


@functools.cache
def signature(meaning: Word) -> inspect.Signature:
    return inspect.signature(meaning)


def meaning_of(table: TermTable, target: Any, args: Any, kwargs: Any, result: Any) -> Meaning:
    """The term of a call, a tuple of terms for a call with several results, or None (not known).

    Tensor arguments are terms, numbers are numbers or sympy expressions; result is the fake value.
    """
    found = METHODS.get(target) if isinstance(target, str) else FUNCTIONS.get(target)
    if found is None:
        return None
    try:
        signature(found).bind(table, Result(result), *args, **kwargs)
    except TypeError:
        return None
    return found(table, Result(result), *args, **kwargs)


def name_of(target: Any) -> str:
    """What a function or method is called here, "" for one that has no meaning."""
    found = METHODS.get(target) if isinstance(target, str) else FUNCTIONS.get(target)
    return "" if found is None else found.__name__


# --- reading operands -----------------------------------------------------------------------------


def is_number(argument: Any) -> bool:
    return isinstance(argument, (int, float, sympy.Expr, SymbolicNumber)) and not isinstance(
        argument, bool
    )


def operands(table: TermTable, result: Result, *arguments: Any) -> tuple[Term, ...] | None:
    """Element-wise operands in the dtype torch computes in, the result's; None if unknown."""
    terms: list[Term] = []
    for argument in arguments:
        if isinstance(argument, Term):
            terms.append(cast(table, argument, result.dtype))
        elif is_number(argument):
            terms.append(table.number(argument))
        else:
            return None
    found = list(terms)
    for index, term in enumerate(terms):
        others = tuple(other for position, other in enumerate(found) if position != index)
        if term.op != "number":
            found[index] = operand(table, term, result.shape, others)
    return tuple(found)


def dimensions(dim: Any, rank: int) -> tuple[int, ...] | None:
    """Dimensions as sorted negative ints; None (all dimensions) and symbolic ones are not known."""
    given = dim if isinstance(dim, (tuple, list)) else (dim,)
    if not given or not all(type(d) is int for d in given) or rank == 0:
        return None
    return tuple(sorted(d % rank - rank for d in given))


def dimension(dim: Any, rank: int) -> int | None:
    found = dimensions(dim, rank)
    return None if found is None or len(found) != 1 else found[0]
