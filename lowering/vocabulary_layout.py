"""Words for moving data: views, transpositions, indexing, splitting, joining, repeating."""

from __future__ import annotations

import operator
from typing import Any

import torch

from tile_backend.lowering import identities_layout as layout
from tile_backend.lowering import shapes
from tile_backend.lowering.identities import build, cast
from tile_backend.lowering.node import Size
from tile_backend.lowering.terms import Term, TermTable
from tile_backend.lowering.vocabulary import Meaning, Result, dimension, word


@word("view", "reshape", "flatten", "unflatten", "unsqueeze", "squeeze", "view_as", "reshape_as")
@word(torch.reshape, torch.flatten, torch.unflatten, torch.unsqueeze, torch.squeeze)
def reshape(t: TermTable, r: Result, input: Any, *args: Any, **kwargs: Any) -> Meaning:
    """The shape comes from the result; `view(dtype)` reinterprets bits and is something else."""
    if not isinstance(r.value, torch.Tensor) or r.dtype != input.dtype:
        return None
    return layout.reshape(t, input, r.shape)


@word("expand", "expand_as", "broadcast_to", torch.broadcast_to)
def expand(t: TermTable, r: Result, input: Any, *args: Any, **kwargs: Any) -> Meaning:
    lead = len(r.shape) - input.rank
    source = layout.reshape(t, input, (1,) * lead + input.shape) if lead else input
    return build(t, "expand", (source,), r.shape, r.dtype, r.shape)


@word("contiguous", "clone", torch.clone)
def same_values(t: TermTable, r: Result, input: Any, **kwargs: Any) -> Meaning:
    """A copy has the same values; what is written to later is volatile and never gets here."""
    return input if isinstance(input, Term) else None


@word("transpose", "swapaxes", "swapdims", torch.transpose, torch.swapaxes, torch.swapdims)
def transpose(t: TermTable, r: Result, input: Any, dim0: Any, dim1: Any) -> Meaning:
    first, second = dimension(dim0, input.rank), dimension(dim1, input.rank)
    if first is None or second is None:
        return None
    dims = list(range(-input.rank, 0))
    dims[first], dims[second] = second, first
    return layout.permute(t, input, tuple(dims))


@word("permute", torch.permute)
def permute(t: TermTable, r: Result, input: Any, *dims: Any) -> Meaning:
    given = dims[0] if len(dims) == 1 and isinstance(dims[0], (tuple, list)) else dims
    if len(given) != input.rank or not all(type(d) is int for d in given):
        return None
    return layout.permute(t, input, tuple(d % input.rank - input.rank for d in given))


@word("movedim", "moveaxis", torch.movedim, torch.moveaxis)
def movedim(t: TermTable, r: Result, input: Any, source: Any, destination: Any) -> Meaning:
    start, end = dimension(source, input.rank), dimension(destination, input.rank)
    if start is None or end is None:
        return None
    dims = [d for d in range(-input.rank, 0) if d != start]
    dims.insert(end + input.rank, start)
    return layout.permute(t, input, tuple(dims))


@word(torch.ops.aten.mT, torch.ops.aten.mH)  # what torch 2.15 makes of x.mT
@word("t", "adjoint", torch.t, torch.adjoint)
def transposed(t: TermTable, r: Result, input: Any) -> Meaning:
    """The last two dimensions of a real tensor, swapped."""
    return transpose(t, r, input, -1, -2) if input.rank >= 2 and r.is_float else None


@word(getattr)
def attribute(t: TermTable, r: Result, input: Any, name: Any) -> Meaning:
    """`x.mT`: Dynamo keeps the attributes that are views as calls of getattr.

    `.T` and `.H` of more than two dimensions reverse all of them.
    """
    swaps = name in ("mT", "mH") or (name in ("T", "H") and input.rank == 2)
    return transposed(t, r, input) if swaps else None


# --- indexing -------------------------------------------------------------------------------------


@word("__getitem__", operator.getitem)
def getitem(t: TermTable, r: Result, input: Any, index: Any) -> Meaning:
    """Basic indexing as slices, selections and reshapes; tensors in the index are not known."""
    if isinstance(input, tuple):
        return input[index] if type(index) is int and -len(input) <= index < len(input) else None
    parts = index if isinstance(index, tuple) else (index,)
    if not isinstance(input, Term) or not all(is_basic(part) for part in parts):
        return None
    taken = sum(1 for part in parts if part is not None and part is not Ellipsis)
    if Ellipsis not in parts:
        parts = (*parts, Ellipsis)
    found, remaining = input, input.rank - taken
    back = input.rank
    new_axes = False
    for part in parts:
        if part is None:
            new_axes = True
        elif part is Ellipsis:
            back -= remaining
        else:
            step = part_of(t, found, -back, part)
            if step is None:
                return None
            found = step
            back -= 1
    return layout.reshape(t, found, r.shape) if new_axes else found


def is_basic(part: Any) -> bool:
    return part is None or part is Ellipsis or isinstance(part, slice) or type(part) is int


def part_of(t: TermTable, x: Term, dim: int, part: Any) -> Term | None:
    """One index applied at dimension `dim` (negative, in x's rank at that point)."""
    width = x.shape[dim]
    if isinstance(part, int):
        if not isinstance(width, int) and part < 0:
            return None
        return select_at(t, x, dim, part % width if isinstance(width, int) else part)
    step = 1 if part.step is None else part.step
    if type(step) is not int or step < 1:
        return None
    start, stop = bound(part.start, width, 0), bound(part.stop, width, width)
    if start is None or stop is None:
        return None
    return layout.slice_(t, x, dim, start, stop, step)


def bound(given: Any, width: Size, default: Size) -> Size | None:
    """A slice bound within [0, width]; None where it cannot be told."""
    if given is None:
        return default
    if isinstance(given, int) and isinstance(width, int):
        return max(0, given + width) if given < 0 else min(given, width)
    if isinstance(given, int) and given < 0:
        return width + given
    if shapes.same(given, width):
        return width
    if not isinstance(given, int) and isinstance(width, int):
        return None
    return given


def select_at(t: TermTable, x: Term, dim: int, index: Size) -> Term:
    shape = x.shape[: x.rank + dim] + x.shape[x.rank + dim + 1 :]
    return build(t, "select", (x,), (dim, index), x.dtype, shape)


@word("select", torch.select)
def select(t: TermTable, r: Result, input: Any, dim: Any, index: Any) -> Meaning:
    place = dimension(dim, input.rank)
    return part_of(t, input, place, index) if place is not None and type(index) is int else None


@word("narrow", torch.narrow)
def narrow(t: TermTable, r: Result, input: Any, dim: Any, start: Any, length: Any) -> Meaning:
    place = dimension(dim, input.rank)
    if place is None or isinstance(start, Term) or (isinstance(start, int) and start < 0):
        return None
    return layout.slice_(t, input, place, start, start + length)


# --- splitting ------------------------------------------------------------------------------------


@word("chunk", "split", "split_with_sizes", "tensor_split")
@word(torch.chunk, torch.split, torch.split_with_sizes, torch.tensor_split)
def split(t: TermTable, r: Result, input: Any, *args: Any, **kwargs: Any) -> Meaning:
    """The parts as slices; their sizes come from the results."""
    given = kwargs.get("dim", args[1] if len(args) > 1 else 0)
    place = dimension(given, input.rank)
    if place is None or not isinstance(r.value, (tuple, list)):
        return None
    parts, begin = [], 0
    for piece in r.value:
        end = begin + Result(piece).shape[place]
        parts.append(layout.slice_(t, input, place, begin, end))
        begin = end
    return tuple(parts)


@word("unbind", torch.unbind)
def unbind(t: TermTable, r: Result, input: Any, dim: Any = 0) -> Meaning:
    place = dimension(dim, input.rank)
    if place is None or not isinstance(r.value, (tuple, list)):
        return None
    return tuple(select_at(t, input, place, i) for i in range(len(r.value)))


# --- joining --------------------------------------------------------------------------------------


def parts_of(t: TermTable, tensors: Any, dtype: Any) -> tuple[Term, ...] | None:
    """The parts in the dtype of the whole, to which torch promotes them."""
    known = isinstance(tensors, (tuple, list)) and all(isinstance(p, Term) for p in tensors)
    return tuple(cast(t, part, dtype) for part in tensors) if known else None


@word(torch.cat, torch.concat, torch.concatenate)  # joins along any dimension
def cat(t: TermTable, r: Result, tensors: Any, dim: Any = 0) -> Meaning:
    parts, place = parts_of(t, tensors, r.dtype), dimension(dim, len(r.shape))
    return layout.cat(t, parts, place, r.shape) if parts and place else None


@word(torch.stack)
def stack(t: TermTable, r: Result, tensors: Any, dim: Any = 0) -> Meaning:
    parts, place = parts_of(t, tensors, r.dtype), dimension(dim, len(r.shape))
    return build(t, "stack", parts, (place,), r.dtype, r.shape) if parts and place else None


@word("repeat_interleave", torch.repeat_interleave)
def repeat_interleave(
    t: TermTable, r: Result, input: Any, repeats: Any, dim: Any = None, *, output_size: Any = None
) -> Meaning:
    place = dimension(dim, input.rank) if dim is not None else None
    if place is None or isinstance(repeats, Term):
        return None
    return build(t, "repeat_interleave", (input,), (repeats, place), r.dtype, r.shape)


# --- complex numbers ------------------------------------------------------------------------------


@word(torch.conj, "conj")
def conj(t: TermTable, r: Result, input: Any) -> Meaning:
    """Of real numbers it is these."""
    return build(t, "conj", (input,), (), r.dtype, r.shape) if r.dtype.is_complex else input


@word(torch.view_as_complex)
def view_as_complex(t: TermTable, r: Result, input: Any) -> Meaning:
    return build(t, "view_as_complex", (input,), (), r.dtype, r.shape)


@word(torch.view_as_real)
def view_as_real(t: TermTable, r: Result, input: Any) -> Meaning:
    return build(t, "view_as_real", (input,), (), r.dtype, r.shape)
