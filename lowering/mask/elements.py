"""A tensor as a formula: its element at symbolic indices.

Integers are sympy expressions, booleans sympy's Booleans, floating-point numbers `Cases`. A formula
is asked for with whatever indices a reader has, which makes views, slices and gathers one
substitution each.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import sympy
import torch
from sympy.logic.boolalg import Boolean

from tile_backend.lowering.node import Size

Indices = tuple[Any, ...]
Formula = Callable[[Indices], Any]
MOST_CASES = 16
WIDE = (torch.int64, torch.int32)
"""Dtypes in which indices and their sums do not wrap around: no dimension has 2**31 elements."""
LARGEST = {torch.int64: 2**24, torch.int32: 1}
"""Of the factors of an index, for which that holds as well."""


class NotExplained(Exception):
    """A formula cannot be told for these indices."""


@dataclasses.dataclass(frozen=True)
class Cases:
    """A floating-point number: one of a few, each under its condition.

    Exactly one of the conditions holds.
    """

    choices: tuple[tuple[float, Boolean], ...]


@dataclasses.dataclass(frozen=True)
class Elements:
    """shape: ints or sympy expressions. at: the element at as many indices."""

    shape: tuple[Size, ...]
    dtype: torch.dtype
    at: Formula


def rounded(value: float, dtype: torch.dtype) -> float:
    """The number that a tensor of that dtype holds for it."""
    return float(torch.tensor(value, dtype=torch.float64).to(dtype))


def constant(value: Any, dtype: torch.dtype, shape: tuple[Size, ...]) -> Elements:
    """The same number everywhere."""
    element = literal(value, dtype)
    return Elements(shape, dtype, lambda indices: element)


def literal(value: Any, dtype: torch.dtype) -> Any:
    """A number as an element of a tensor of that dtype. Raises NotExplained."""
    if dtype is torch.bool:
        return truth(value)
    if dtype.is_floating_point:
        if not isinstance(value, (bool, int, float)):
            raise NotExplained
        return Cases(((rounded(float(value), dtype), sympy.true),))
    if isinstance(value, (float, str)) or dtype.is_complex:
        raise NotExplained
    if isinstance(value, int) and not 0 <= value <= 127 and not wide_enough(value, dtype):
        raise NotExplained
    return sympy.sympify(int(value) if isinstance(value, bool) else value, strict=True)


def wide_enough(value: int, dtype: torch.dtype) -> bool:
    """Whether a dtype surely holds an integer beyond those that all of them hold."""
    return dtype in WIDE and abs(value) < 2**31


def is_condition(value: Any) -> bool:
    """A boolean element; sympy takes every symbol for a possible one."""
    return isinstance(value, Boolean) and not isinstance(value, sympy.Expr)


def truth(value: Any) -> Boolean:
    """An element as a condition: True where it is not zero."""
    if is_condition(value):
        return value
    if isinstance(value, bool):  # to sympy False is not 0
        return sympy.true if value else sympy.false
    if isinstance(value, Cases):
        return sympy.Or(*(condition for number, condition in value.choices if number != 0))
    if isinstance(value, sympy.Piecewise):
        found: Boolean = sympy.false
        for number, condition in reversed(value.args):
            found = chosen(condition, truth(number), found)
        return found
    return sympy.Ne(value, 0)


def as_number(value: Any) -> Any:
    """An element of an integer or boolean tensor as an integer."""
    if value in (sympy.true, sympy.false):
        return sympy.Integer(value == sympy.true)
    if is_condition(value):
        return sympy.Piecewise((1, value), (0, True))
    return value


def converted(value: Any, source: torch.dtype, target: torch.dtype) -> Any:
    """An element after a cast. Raises NotExplained for a cast of integers that might wrap."""
    if target is torch.bool:
        return truth(value)
    if target.is_complex or source.is_complex:
        raise NotExplained
    if target.is_floating_point:
        if is_condition(value):
            value = Cases(((1.0, value), (0.0, sympy.Not(value))))
        if not isinstance(value, Cases):
            raise NotExplained
        return Cases(tuple((rounded(n, target), condition) for n, condition in value.choices))
    if source.is_floating_point:
        raise NotExplained
    if source is torch.bool or source is target:
        return as_number(value)
    if target not in WIDE or (target.itemsize < source.itemsize and has_reads(value)):
        raise NotExplained
    return value


def exact(value: Any, dtype: torch.dtype) -> Any:
    """An integer that cannot have wrapped around in that dtype. Raises NotExplained.

    What is read from an int64 tensor is taken to be far from the ends of int64.
    """
    most = LARGEST[dtype]
    if dtype is not torch.int64 and has_reads(value):
        raise NotExplained
    for term in sympy.Add.make_args(sympy.expand(value)):
        factor, rest = term.as_coeff_Mul()
        limit = 2**24 if rest == 1 else most
        if abs(factor) > limit or len(sympy.Mul.make_args(rest)) > 1 or rest.is_Pow:
            raise NotExplained
    return value


def has_reads(value: Any) -> bool:
    """Whether an element depends on what a tensor holds, which can be any number."""
    return bool(value.atoms(sympy.core.function.AppliedUndef))


def combined(function: Callable[..., torch.Tensor], dtype: torch.dtype, *operands: Cases) -> Cases:
    """An operation on floating-point elements, done by torch on each combination of numbers."""
    found: dict[float, list[Boolean]] = {}
    for parts in itertools.product(*(operand.choices for operand in operands)):
        condition = sympy.And(*(part[1] for part in parts))
        if condition == sympy.false:
            continue
        numbers = (torch.tensor(part[0], dtype=torch.float64).to(dtype) for part in parts)
        result = float(function(*numbers))
        if result != result:
            raise NotExplained
        found.setdefault(result, []).append(condition)
    if not 0 < len(found) <= MOST_CASES:
        raise NotExplained
    return Cases(tuple((number, sympy.Or(*given)) for number, given in found.items()))


def chosen(condition: Boolean, first: Any, second: Any) -> Any:
    """`first` where the condition holds, else `second`; both of one dtype."""
    if condition == sympy.true:
        return first
    if condition == sympy.false:
        return second
    if is_condition(first):
        return sympy.Or(sympy.And(condition, first), sympy.And(sympy.Not(condition), second))
    if isinstance(first, Cases):
        found: dict[float, list[Boolean]] = {}
        for given, choices in ((condition, first.choices), (~condition, second.choices)):
            for number, when in choices:
                found.setdefault(number, []).append(sympy.And(given, when))
        return Cases(tuple((number, sympy.Or(*when)) for number, when in found.items()))
    return sympy.Piecewise((first, condition), (second, True))


def broadcast(elements: Elements, shape: tuple[Size, ...]) -> Formula:
    """The formula for indices of the broader shape: a dimension of size 1 is read at 0."""
    lead = len(shape) - len(elements.shape)
    single = [size == 1 for size in elements.shape]

    def at(indices: Indices) -> Any:
        given = zip(indices[lead:], single, strict=True)
        return elements.at(tuple(sympy.Integer(0) if one else i for i, one in given))

    return at


def opaque(name: str, dtype: torch.dtype) -> Formula:
    """A read of a tensor that the graph computes: an unknown function of that name."""
    if dtype.is_floating_point or dtype.is_complex:

        def unknown(indices: Indices) -> Any:
            raise NotExplained

        return unknown
    read = sympy.Function(name, integer=True)
    if dtype is torch.bool:
        return lambda indices: sympy.Ne(read(*indices), 0)
    return lambda indices: read(*indices)
