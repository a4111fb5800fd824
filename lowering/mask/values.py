"""Words that make numbers: positions, constants, arithmetic, comparisons, logic, running sums."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import sympy
import torch

from tile_backend.lowering.mask import elements
from tile_backend.lowering.mask.elements import Cases, Elements, Indices, NotExplained
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


# --- making tensors -------------------------------------------------------------------------------


@word(torch.arange)
def arange(fake: Any, *bounds: Any, start: Any = 0, step: Any = 1, **_: Any) -> Any:
    begin = bounds[0] if len(bounds) > 1 else start
    step = bounds[2] if len(bounds) > 2 else step
    if fake.dtype not in elements.WIDE or not all(map(is_integer, (begin, step))):
        return None
    return Elements(shape(fake), fake.dtype, lambda i: begin + step * i[0])


@word(torch.ones, torch.ones_like, "new_ones")
def ones(fake: Any, *_: Any, **__: Any) -> Any:
    return elements.constant(1, fake.dtype, shape(fake))


@word(torch.zeros, torch.zeros_like, "new_zeros")
def zeros(fake: Any, *_: Any, **__: Any) -> Any:
    return elements.constant(0, fake.dtype, shape(fake))


@word(torch.full, torch.full_like, "new_full")
def full(fake: Any, *args: Any, fill_value: Any = None, **__: Any) -> Any:
    given = args[-1] if fill_value is None else fill_value
    return (
        None
        if isinstance(given, (Elements, tuple))
        else elements.constant(given, fake.dtype, shape(fake))
    )


@word(torch.tensor, torch.scalar_tensor)
def scalar(fake: Any, given: Any, **_: Any) -> Any:
    return elements.constant(given, fake.dtype, ()) if not shape(fake) else None


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
            found = function(a, b)
            if dtype is not torch.int64 and elements.has_reads(found):  # it might wrap around
                raise NotExplained
            return found

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


# --- casts ----------------------------------------------------------------------------------------


@word("to", "type", "bool", "int", "long", "float", "half", "bfloat16", "type_as")
@word("contiguous", "clone", "detach", torch.clone, torch.detach)
def cast(fake: Any, input: Any, *_: Any, **__: Any) -> Any:
    """The dtype is the result's; devices and memory formats change no element."""
    return elementwise(fake, fake.dtype, lambda a: a, input)


# --- along a dimension ----------------------------------------------------------------------------


@word(torch.cumsum, "cumsum")
def running_sum(fake: Any, input: Any, dim: Any, *, dtype: Any = None) -> Any:
    """Of what is the same at every index along the dimension; another sum stays a read."""
    place = dim % len(input.shape)
    if fake.dtype.is_floating_point or input.dtype.is_floating_point:
        return None

    def at(indices: Indices) -> Any:
        anywhere = sympy.Dummy("i", integer=True, nonnegative=True)
        element = input.at((*indices[:place], anywhere, *indices[place + 1 :]))
        element = elements.as_number(element)
        if anywhere in element.free_symbols:
            raise NotExplained
        return element * (indices[place] + 1)

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
