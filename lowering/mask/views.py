"""Words that move elements: expansion, permutation, new axes, slices, gathers."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import sympy
import torch

from tile_backend.lowering.mask import elements
from tile_backend.lowering.mask.elements import Elements, Indices, NotExplained
from tile_backend.lowering.mask.words import word
from tile_backend.lowering.node import Size, shape


@word("expand", "expand_as", "broadcast_to", torch.broadcast_to)
def expand(fake: Any, input: Any, *_: Any, **__: Any) -> Any:
    return Elements(shape(fake), fake.dtype, elements.broadcast(input, shape(fake)))


@word("transpose", "swapaxes", "swapdims", torch.transpose, torch.swapaxes, torch.swapdims)
def transpose(fake: Any, input: Any, dim0: Any, dim1: Any) -> Any:
    order = list(range(len(input.shape)))
    first, second = dim0 % len(order), dim1 % len(order)
    order[first], order[second] = order[second], order[first]
    return permuted(fake, input, order)


@word("permute", torch.permute)
def permute(fake: Any, input: Any, *dims: Any) -> Any:
    given = dims[0] if len(dims) == 1 and isinstance(dims[0], tuple) else dims
    return permuted(fake, input, [d % len(input.shape) for d in given])


@word("t", torch.t)
def transposed(fake: Any, input: Any) -> Any:
    return permuted(fake, input, [1, 0]) if len(input.shape) == 2 else input


def permuted(fake: Any, input: Elements, order: list[int]) -> Elements:
    """Dimension i of the result is dimension order[i] of the input."""
    back = [order.index(d) for d in range(len(order))]
    return Elements(shape(fake), fake.dtype, lambda i: input.at(tuple(i[d] for d in back)))


@word("unsqueeze", "squeeze", "view", "reshape", "view_as", "reshape_as", "flatten", "unflatten")
@word(torch.unsqueeze, torch.squeeze, torch.reshape, torch.flatten, torch.unflatten)
def reshape(fake: Any, input: Any, *_: Any, **__: Any) -> Any:
    """Where only dimensions of size 1 come and go."""
    if input.dtype is not fake.dtype:
        return None
    wanted = shape(fake)
    if [n for n in input.shape if n != 1] != [n for n in wanted if n != 1]:
        return None

    def at(indices: Indices) -> Any:
        kept = iter(i for i, n in zip(indices, wanted, strict=True) if n != 1)
        return input.at(tuple(sympy.Integer(0) if n == 1 else next(kept) for n in input.shape))

    return Elements(wanted, fake.dtype, at)


@word("__getitem__", operator.getitem)
def getitem(fake: Any, input: Any, index: Any) -> Any:
    """Slices, integers and new axes, or integer tensors for the first dimensions."""
    if not isinstance(input, Elements):
        return None
    parts = index if isinstance(index, tuple) else (index,)
    if any(isinstance(part, Elements) for part in parts):
        return gathered(fake, input, parts)
    taken = sum(part is not None and part is not Ellipsis for part in parts)
    rest = (slice(None),) * (len(input.shape) - taken)
    if Ellipsis in parts:
        place = parts.index(Ellipsis)
        parts = (*parts[:place], *rest, *parts[place + 1 :])
    else:
        parts = (*parts, *rest)
    sizes = iter(input.shape)
    found = [None if part is None else taken_by(part, next(sizes)) for part in parts]
    consuming = [isinstance(part, slice) or part is None for part in parts]

    def at(indices: Indices) -> Any:
        given = iter(indices)
        source = []
        for read, consumes in zip(found, consuming, strict=True):
            here = next(given) if consumes else None
            if read is not None:
                source.append(read(here))
        return input.at(tuple(source))

    return Elements(shape(fake), fake.dtype, at)


def taken_by(part: Any, size: Size) -> Callable[[Any], Any]:
    """The index in the source, given that in the result. Raises NotExplained."""
    if isinstance(part, (bool, sympy.logic.boolalg.Boolean)):
        raise NotExplained
    if isinstance(part, (int, sympy.Expr)):
        if not isinstance(part, int) and not part.is_nonnegative:
            raise NotExplained
        number = part + size if isinstance(part, int) and part < 0 else part
        return lambda _: sympy.sympify(number, strict=True)
    if not isinstance(part, slice):
        raise NotExplained
    begin, step = (part.start or 0), (1 if part.step is None else part.step)
    if isinstance(begin, Elements) or not isinstance(step, int) or step < 1:
        raise NotExplained
    if isinstance(begin, int) and isinstance(size, int):
        begin = max(begin + size, 0) if begin < 0 else begin
    elif not (begin == 0 or sympy.sympify(begin, strict=True).is_nonnegative):
        raise NotExplained
    return lambda i: begin + step * i


def gathered(fake: Any, input: Elements, parts: tuple[Any, ...]) -> Elements | None:
    """x[i, j]: integer tensors for the first dimensions, broadcast against each other."""
    if not all(isinstance(p, Elements) and p.dtype in INTEGERS for p in parts):
        return None
    count = len(fake.shape) - (len(input.shape) - len(parts))
    wide = shape(fake)[:count]
    readers = [elements.broadcast(part, wide) for part in parts]

    def at(indices: Indices) -> Any:
        found = [read(indices[:count]) for read in readers]
        if not all(i.is_nonnegative for i in found):  # a negative one counts from the end
            raise NotExplained
        return input.at((*found, *indices[count:]))

    return Elements(shape(fake), fake.dtype, at)


@word(torch.ops.aten.index)
def index(fake: Any, input: Any, parts: Any) -> Any:
    """What a gather is inside a vmap."""
    return gathered(fake, input, parts) if len(parts) <= len(input.shape) else None


INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8)
