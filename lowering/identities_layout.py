"""Identities between terms that only move data: permutations, reshapes, slices, concatenations.

Dimensions are negative (from the end). A permutation lists the source dimension of each of the last
dimensions; leading dimensions that stay in place are left out.
"""

from __future__ import annotations

from typing import Any

from tile_backend.lowering import shapes
from tile_backend.lowering.identities import Args, build, rule
from tile_backend.lowering.node import Size
from tile_backend.lowering.terms import Term, TermTable


def full_permutation(dims: tuple[int, ...], rank: int) -> tuple[int, ...]:
    return (*range(-rank, -len(dims)), *dims)


def permute(table: TermTable, term: Term, dims: tuple[int, ...]) -> Term:
    """dims: the source dimension (negative) of every dimension of the result."""
    rank = term.rank
    shape = tuple(term.shape[d] for d in dims)
    kept = 0
    while kept < rank and dims[kept] == kept - rank:
        kept += 1
    return build(table, "permute", (term,), tuple(dims[kept:]), term.dtype, shape)


def slice_(table: TermTable, term: Term, dim: int, start: Size, stop: Size, step: Size = 1) -> Term:
    span = stop - start
    length: Size = span if step == 1 else -(-span // step)
    shape = (*term.shape[:dim], length, *(term.shape[dim + 1 :] if dim < -1 else ()))
    return build(table, "slice", (term,), (dim, start, stop, step), term.dtype, shape)


def reshape(table: TermTable, term: Term, shape: tuple[Size, ...]) -> Term:
    return build(table, "reshape", (term,), shape, term.dtype, shape)


def cat(table: TermTable, parts: tuple[Term, ...], dim: int, shape: tuple[Size, ...]) -> Term:
    return build(table, "cat", parts, (dim,), parts[0].dtype, shape)


def merged_pair(table: TermTable, term: Term) -> Term:
    """[..., a, b] as [..., a * b], which undoes the reshape that split a last dimension."""
    return reshape(table, term, (*term.shape[:-2], term.shape[-2] * term.shape[-1]))


# --- permute --------------------------------------------------------------------------------------


@rule("permute")
def identity_permutation(
    t: TermTable, args: Args, attrs: Any, dtype: Any, shape: Any
) -> Term | None:
    """permute(x, identity) = x"""
    return None if attrs else args[0]


@rule("permute")
def permutation_twice(t: TermTable, args: Args, attrs: Any, dtype: Any, shape: Any) -> Term | None:
    """permute(permute(x, p), q) = permute(x, p[q])"""
    (inner,) = args
    if inner.op != "permute":
        return None
    first = full_permutation(inner.attrs, inner.rank)
    return permute(t, inner.args[0], tuple(first[d] for d in full_permutation(attrs, inner.rank)))


@rule("permute")
def permuted_repeat(t: TermTable, args: Args, attrs: Any, dtype: Any, shape: Any) -> Term | None:
    """permute(repeat(x, d)) = repeat(permute(x), d')"""
    (inner,) = args
    if inner.op != "repeat_interleave":
        return None
    count, dim = inner.attrs
    dims = full_permutation(attrs, inner.rank)
    moved = dims.index(dim) - inner.rank
    source = permute(t, inner.args[0], dims)
    return build(t, "repeat_interleave", (source,), (count, moved), dtype, shape)


# --- reshape and expand ---------------------------------------------------------------------------


@rule("reshape", "expand")
def same_shape(t: TermTable, args: Args, attrs: Any, dtype: Any, shape: Any) -> Term | None:
    """reshape(x, x.shape) = x"""
    return args[0] if shapes.equal(args[0].shape, shape) else None


@rule("reshape")
def reshape_twice(t: TermTable, args: Args, attrs: Any, dtype: Any, shape: Any) -> Term | None:
    """reshape(reshape(x, a), b) = reshape(x, b)"""
    return reshape(t, args[0].args[0], shape) if args[0].op == "reshape" else None


@rule("expand")
def expand_twice(t: TermTable, args: Args, attrs: Any, dtype: Any, shape: Any) -> Term | None:
    """expand(expand(x)) = expand(x)"""
    if args[0].op != "expand":
        return None
    return build(t, "expand", args[0].args, shape, dtype, shape)


@rule("reshape")
def repeated_heads(t: TermTable, args: Args, attrs: Any, dtype: Any, shape: Any) -> Term | None:
    """reshape(expand(x[:, :, None]), [B, K * n, ...]) = repeat_interleave(x, n, 1), in any dim"""
    (wide,) = args
    if wide.op != "expand":
        return None
    narrow = wide.args[0]
    if narrow.rank != wide.rank or narrow.rank != len(shape) + 1:
        return None
    grown = [i for i in range(wide.rank) if not shapes.same(narrow.shape[i], wide.shape[i])]
    if len(grown) != 1 or grown[0] == 0:
        return None
    place, count = grown[0], wide.shape[grown[0]]
    base = narrow.shape[:place] + narrow.shape[place + 1 :]
    merged = list(base)
    merged[place - 1] = base[place - 1] * count
    if not shapes.equal(merged, shape):
        return None
    source = reshape(t, narrow, base)
    return build(t, "repeat_interleave", (source,), (count, place - 1 - len(shape)), dtype, shape)


@rule("reshape")
def merged_stack(t: TermTable, args: Args, attrs: Any, dtype: Any, shape: Any) -> Term | None:
    """A stack whose last two dimensions are merged.

    stack((x, y), -1).flatten(-2) = interleave(x, y)
    stack((x, y), -2).flatten(-2) = cat((x, y), -1)
    """
    (inner,) = args
    if inner.op != "stack" or not shapes.merges_last(inner.shape, shape):
        return None
    if inner.attrs == (-1,):
        return build(t, "interleave", inner.args, (), dtype, shape)
    return cat(t, inner.args, -1, shape) if inner.attrs == (-2,) else None


@rule("reshape")
def deinterleaved(t: TermTable, args: Args, attrs: Any, dtype: Any, shape: Any) -> Term | None:
    """Neighbours moved apart, n of them.

    reshape(x, [..., h, n]).transpose(-1, -2).flatten(-2) = cat(x[..., 0::n], ..., x[..., n-1::n])
    """
    (inner,) = args
    if inner.op != "permute" or inner.attrs != (-1, -2) or inner.args[0].op != "reshape":
        return None
    split = inner.args[0]
    source = merged_pair(t, split)
    count = split.shape[-1]
    if not (shapes.equal(source.shape, shape) and isinstance(count, int) and count <= 4):
        return None
    width = source.shape[-1]
    return cat(t, tuple(slice_(t, source, -1, i, width, count) for i in range(count)), -1, shape)


@rule("reshape")
def real_pairs(t: TermTable, args: Args, attrs: Any, dtype: Any, shape: Any) -> Term | None:
    """view_as_real(z).flatten(-2) = as_real(z): real and imaginary parts side by side"""
    (inner,) = args
    if inner.op != "view_as_real" or not shapes.merges_last(inner.shape, shape):
        return None
    return build(t, "as_real", inner.args, (), dtype, shape)


@rule("view_as_complex")
def complex_pairs(t: TermTable, args: Args, attrs: Any, dtype: Any, shape: Any) -> Term | None:
    """view_as_complex(x.reshape(..., -1, 2)) = as_complex(x): neighbours become one number"""
    return build(t, "as_complex", (merged_pair(t, args[0]),), (), dtype, shape)


# --- slices and their inverses --------------------------------------------------------------------


@rule("slice")
def whole_slice(t: TermTable, args: Args, attrs: Any, dtype: Any, shape: Any) -> Term | None:
    """x[0:n] = x for a dimension of size n"""
    dim, start, stop, step = attrs
    whole = start == 0 and step == 1 and shapes.same(stop, args[0].shape[dim])
    return args[0] if whole else None


@rule("slice")
def slice_of_cat(t: TermTable, args: Args, attrs: Any, dtype: Any, shape: Any) -> Term | None:
    """cat((x, y))[0:len(x)] = x"""
    (inner,) = args
    dim, start, stop, step = attrs
    if inner.op != "cat" or inner.attrs != (dim,) or step != 1:
        return None
    begin: Size = 0
    for part in inner.args:
        end = begin + part.shape[dim]
        if shapes.same(begin, start) and shapes.same(end, stop):
            return part
        begin = end
    return None


@rule("select")
def select_of_split(t: TermTable, args: Args, attrs: Any, dtype: Any, shape: Any) -> Term | None:
    """One of the parts into which a last dimension was split.

    x.reshape(..., h, n)[..., i] = x[..., i::n]
    x.reshape(..., n, h)[..., i, :] = x[..., i * h : (i + 1) * h]
    """
    (inner,) = args
    dim, index = attrs
    if inner.op != "reshape" or inner.rank < 2 or dim < -2:
        return None
    source = merged_pair(t, inner)
    width = inner.shape[-1]
    if dim == -1:
        return slice_(t, source, -1, index, source.shape[-1], width)
    return slice_(t, source, -1, index * width, (index + 1) * width)


@rule("cat")
def cat_of_nothing(t: TermTable, args: Args, attrs: Any, dtype: Any, shape: Any) -> Term | None:
    """cat((x, empty)) = x"""
    (dim,) = attrs
    kept = tuple(part for part in args if part.rank == len(shape) and part.shape[dim] != 0)
    if len(kept) == 1:
        return kept[0]
    return cat(t, kept, dim, shape) if 0 < len(kept) < len(args) else None


@rule("cat")
def cat_of_slices(t: TermTable, args: Args, attrs: Any, dtype: Any, shape: Any) -> Term | None:
    """cat((x[:a], x[a:])) = x"""
    (dim,) = attrs
    end: Size = 0
    for part in args:
        if part.op != "slice" or part.args[0] is not args[0].args[0]:
            return None
        where, start, stop, step = part.attrs
        if where != dim or step != 1 or not shapes.same(start, end):
            return None
        end = stop
    source: Term = args[0].args[0]
    return source if shapes.same(end, source.shape[dim]) else None


@rule("cat")
def cat_of_unsqueezed(t: TermTable, args: Args, attrs: Any, dtype: Any, shape: Any) -> Term | None:
    """cat((x[..., None], y[..., None]), -1) = stack((x, y), -1)"""
    (dim,) = attrs
    parts = []
    for part in args:
        inner = part.args[0] if part.op == "reshape" else part
        if part.op != "reshape" or part.shape[dim] != 1 or inner.rank != part.rank - 1:
            return None
        position = part.rank + dim
        if not shapes.equal(part.shape[:position] + part.shape[position + 1 :], inner.shape):
            return None
        parts.append(inner)
    return build(t, "stack", tuple(parts), (dim,), dtype, shape)


@rule("repeat_interleave")
def repeat_once(t: TermTable, args: Args, attrs: Any, dtype: Any, shape: Any) -> Term | None:
    """repeat_interleave(x, 1) = x"""
    return args[0] if attrs[0] == 1 else None


@rule("interleave")
def interleave_with_itself(
    t: TermTable, args: Args, attrs: Any, dtype: Any, shape: Any
) -> Term | None:
    """interleave(x, x) = repeat_interleave(x, 2, -1)"""
    if len(args) != 2 or args[0] is not args[1]:
        return None
    return build(t, "repeat_interleave", args[:1], (2, -1), dtype, shape)
