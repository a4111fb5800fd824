"""Words for arithmetic, comparisons, logic and choices between elements."""

from __future__ import annotations

import operator
from typing import Any

import sympy
import torch

from tile_backend.lowering.mask import elements
from tile_backend.lowering.mask.elements import Cases, Elements, NotExplained
from tile_backend.lowering.mask.words import (
    WORDS,
    Element,
    common,
    elementwise,
    operand,
    word,
)
from tile_backend.lowering.node import shape

# --- arithmetic -----------------------------------------------------------------------------------


def arithmetic(function: Element, names: tuple[Any, ...]) -> None:
    """On integers by sympy, on floating-point numbers by torch."""

    def meaning(fake: Any, input: Any, other: Any) -> Elements:
        dtype = fake.dtype
        if not (dtype in elements.WIDE or dtype.is_floating_point):
            raise NotExplained

        def element(a: Any, b: Any) -> Any:
            if isinstance(a, Cases):
                return elements.combined(function, dtype, a, b)
            return elements.exact(function(a, b), dtype)

        return elementwise(fake, dtype, element, input, other)

    word(*names)(meaning)


arithmetic(operator.add, ("add", "__add__", "__radd__", torch.add, operator.add))
arithmetic(operator.sub, ("sub", "__sub__", torch.sub, operator.sub))
arithmetic(operator.mul, ("mul", "__mul__", "__rmul__", torch.mul, operator.mul))
arithmetic(lambda a, b: b - a, ("__rsub__", "rsub", torch.rsub))


@word("neg", "__neg__", torch.neg, operator.neg)
def negated(fake: Any, input: Any) -> Any:
    return arithmetic_with(fake, 0, input)


def arithmetic_with(fake: Any, first: Any, second: Any) -> Any:
    """first - second."""
    return WORDS[torch.sub](fake, first, second)


@word("abs", "absolute", "__abs__", torch.abs, torch.absolute, operator.abs, abs)
def absolute(fake: Any, input: Any) -> Any:
    """Of integers."""
    if fake.dtype not in elements.WIDE:
        return None
    return elementwise(fake, fake.dtype, sympy.Abs, input)


@word("__floordiv__", "floor_divide", torch.floor_divide, operator.floordiv)
def floor_divided(fake: Any, input: Any, other: Any) -> Any:
    """Integers by a positive number."""
    if not isinstance(other, (int, sympy.Integer)) or other <= 0 or fake.dtype.is_floating_point:
        return None
    return elementwise(fake, fake.dtype, lambda a, b: sympy.floor(a / b), input, other)


@word("div", "divide", torch.div, torch.divide)
def divided(fake: Any, input: Any, other: Any, *, rounding_mode: Any = None) -> Any:
    return floor_divided(fake, input, other) if rounding_mode == "floor" else None


@word("remainder", "__mod__", torch.remainder, operator.mod)
def remainder(fake: Any, input: Any, other: Any) -> Any:
    """Of integers by a positive number."""
    if not isinstance(other, (int, sympy.Integer)) or other <= 0 or fake.dtype.is_floating_point:
        return None
    return elementwise(fake, fake.dtype, sympy.Mod, input, other)


# --- comparisons ----------------------------------------------------------------------------------


def comparison(function: Element, names: tuple[Any, ...]) -> None:
    """Of integers and booleans; of floating-point numbers case by case."""

    def meaning(fake: Any, input: Any, other: Any) -> Elements:
        dtype = common(input, other)

        def element(a: Any, b: Any) -> Any:
            if isinstance(a, Cases):
                return elements.truth(elements.combined(as_float(function), dtype, a, b))
            return function(elements.as_number(a), elements.as_number(b))

        return elementwise(fake, dtype, element, input, other)

    word(*names)(meaning)


def as_float(function: Element) -> Element:
    """A comparison of two numbers as 1.0 or 0.0."""
    return lambda a, b: 1.0 if function(float(a), float(b)) == sympy.true else 0.0


comparison(sympy.Le, ("le", "__le__", torch.le, operator.le))
comparison(sympy.Lt, ("lt", "__lt__", torch.lt, operator.lt))
comparison(sympy.Ge, ("ge", "__ge__", torch.ge, operator.ge))
comparison(sympy.Gt, ("gt", "__gt__", torch.gt, operator.gt))
comparison(sympy.Eq, ("eq", "__eq__", torch.eq, operator.eq))
comparison(sympy.Ne, ("ne", "__ne__", torch.ne, operator.ne))


# --- logic ----------------------------------------------------------------------------------------


def logic(function: Element, names: tuple[Any, ...], logical: tuple[Any, ...]) -> None:
    """names: bitwise, of booleans only. logical: of the truth of anything."""

    def bitwise(fake: Any, *given: Any) -> Elements | None:
        return meaning(fake, *given) if fake.dtype is torch.bool else None

    def meaning(fake: Any, *given: Any) -> Elements:
        return elementwise(fake, torch.bool, function, *given)

    word(*names)(bitwise)
    word(*logical)(meaning)


logic(
    sympy.And,
    ("bitwise_and", "__and__", "__rand__", torch.bitwise_and, operator.and_),
    ("logical_and", torch.logical_and),
)
logic(
    sympy.Or,
    ("bitwise_or", "__or__", "__ror__", torch.bitwise_or, operator.or_),
    ("logical_or", torch.logical_or),
)
logic(
    sympy.Xor,
    ("bitwise_xor", "__xor__", torch.bitwise_xor, operator.xor),
    ("logical_xor", torch.logical_xor),
)
logic(
    sympy.Not,
    ("bitwise_not", "__invert__", torch.bitwise_not, operator.invert),
    ("logical_not", torch.logical_not),
)


@word(torch.where)
def where(fake: Any, condition: Any, input: Any, other: Any) -> Any:
    wide, dtype = shape(fake), fake.dtype
    test, first, second = (
        operand(condition, torch.bool, wide),
        operand(input, dtype, wide),
        operand(other, dtype, wide),
    )
    return Elements(wide, dtype, lambda i: elements.chosen(test(i), first(i), second(i)))


@word("where")
def where_method(fake: Any, input: Any, condition: Any, other: Any) -> Any:
    return where(fake, condition, input, other)


@word("masked_fill", torch.masked_fill)
def masked_fill(fake: Any, input: Any, mask: Any, value: Any) -> Any:
    return where(fake, mask, value, input)
