"""Words for whole layers: matrix products, softmax, attention, norms, dropout."""

from __future__ import annotations

import math
import operator
from typing import Any

import sympy
import torch
import torch.nn.functional as F

from tile_backend.lowering import shapes
from tile_backend.lowering.identities import build, cast
from tile_backend.lowering.identities_layout import permute
from tile_backend.lowering.node import Size
from tile_backend.lowering.terms import Term, TermTable
from tile_backend.lowering.vocabulary import Meaning, Result, dimension, is_number, word


@word("matmul", "__matmul__", "bmm", "mm", torch.matmul, torch.bmm, torch.mm, operator.matmul)
def matmul(t: TermTable, r: Result, input: Any, other: Any) -> Meaning:
    """Both operands in the result's dtype: autocast rounds them first."""
    if not (r.is_float and isinstance(input, Term) and isinstance(other, Term)):
        return None
    args = (cast(t, input, r.dtype), cast(t, other, r.dtype))
    return build(t, "matmul", args, (), r.dtype, r.shape)


word(torch.ops.aten.matmul.default)(matmul)


@word(torch.einsum, torch.functional.einsum)
def einsum(t: TermTable, r: Result, equation: Any, *tensors: Any) -> Meaning:
    """A batched matrix product of two operands, as matmul between permutations."""
    given = tensors[0] if len(tensors) == 1 and isinstance(tensors[0], (tuple, list)) else tensors
    if not isinstance(equation, str) or len(given) != 2 or not r.is_float:
        return None
    left, _, output = equation.replace(" ", "").partition("->")
    names = left.split(",")
    if len(names) != 2 or "." in equation or not output:
        return None
    return product_of(t, r, names[0], names[1], output, given[0], given[1])


def product_of(
    t: TermTable, r: Result, first: str, second: str, output: str, x: Any, y: Any
) -> Meaning:
    """einsum("first,second->output", x, y) of batch dimensions, one row, one column and one sum."""
    summed = [c for c in first if c in second and c not in output]
    batch = [c for c in output if c in first and c in second]
    rows = [c for c in first if c not in second]
    columns = [c for c in second if c not in first]
    unique = all(len(set(word)) == len(word) for word in (first, second, output))
    if not unique or not (len(summed) == len(rows) == len(columns) == 1):
        return None
    if sorted(output) != sorted([*batch, *rows, *columns]):
        return None
    if len(first) != x.rank or len(second) != y.rank:
        return None
    a = permute(t, cast(t, x, r.dtype), order(first, [*batch, *rows, *summed]))
    b = permute(t, cast(t, y, r.dtype), order(second, [*batch, *summed, *columns]))
    shape: tuple[Size, ...] = (*a.shape[:-1], b.shape[-1])
    result = build(t, "matmul", (a, b), (), r.dtype, shape)
    return permute(t, result, order("".join([*batch, *rows, *columns]), list(output)))


def order(names: str, wanted: list[str]) -> tuple[int, ...]:
    return tuple(names.index(c) - len(names) for c in wanted)


@word(F.linear)
def linear(t: TermTable, r: Result, input: Any, weight: Any, bias: Any = None) -> Meaning:
    """input @ weight.T + bias, rounded once. Operands in the result's dtype: see matmul."""
    given = (input, weight) if bias is None else (input, weight, bias)
    if not r.is_float or not all(isinstance(x, Term) for x in given):
        return None
    args = tuple(cast(t, x, r.dtype) for x in given)
    return build(t, "linear", args, (bias is not None,), r.dtype, r.shape)


@word("softmax", F.softmax, torch.softmax)
def softmax(
    t: TermTable, r: Result, input: Any, dim: Any = None, _stacklevel: int = 3, dtype: Any = None
) -> Meaning:
    """Computed in float32 whatever the dtype, and rounded once; `dtype` casts the input first."""
    place = dimension(dim, input.rank) if dim is not None else None
    if place is None or not r.is_float:
        return None
    return build(t, "softmax", (cast(t, input, r.dtype),), (place,), r.dtype, r.shape)


@word(F.log_softmax, torch.log_softmax, "log_softmax")
def log_softmax(
    t: TermTable, r: Result, input: Any, dim: Any = None, _stacklevel: int = 3, dtype: Any = None
) -> Meaning:
    place = dimension(dim, input.rank) if dim is not None else None
    if place is None or not r.is_float:
        return None
    return build(t, "log_softmax", (cast(t, input, r.dtype),), (place,), r.dtype, r.shape)


@word(F.dropout, torch.dropout)
def dropout(
    t: TermTable, r: Result, input: Any, p: Any = 0.5, training: bool = True, inplace: bool = False
) -> Meaning:
    """dropout(x) = x when it is off."""
    if training is False or p == 0:
        return input if isinstance(input, Term) else None
    if inplace or not is_number(p):
        return None
    return build(t, "dropout", (input, t.number(p)), (), r.dtype, r.shape)


@word(F.scaled_dot_product_attention)
def sdpa(
    t: TermTable,
    r: Result,
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: Any = 0.0,
    is_causal: bool = False,
    scale: Any = None,
    enable_gqa: bool = False,
) -> Meaning:
    """sdpa(q, k, v, scale, [mask], [dropout]) with attributes (causal, gqa)."""
    qkv = (query, key, value)
    if not all(isinstance(x, Term) and x.rank in (3, 4) for x in qkv) or not is_number(dropout_p):
        return None
    if scale is None:
        width = query.shape[-1]
        scale = 1.0 / math.sqrt(width) if isinstance(width, int) else 1 / sympy.sqrt(width)
    if attn_mask is not None and not isinstance(attn_mask, Term):
        return None
    args = [*(cast(t, x, r.dtype) for x in qkv), t.number(scale)]
    args += [] if attn_mask is None else [attn_mask]
    args += [] if dropout_p == 0 else [t.number(dropout_p)]
    fewer = not shapes.same(query.shape[-3], key.shape[-3])
    grouped = fewer and (enable_gqa or key.shape[-3] == 1)  # one head is broadcast without the flag
    flags = (bool(is_causal), grouped, attn_mask is not None, dropout_p != 0)
    return build(t, "sdpa", tuple(args), flags, r.dtype, r.shape)


def normalises_last(normalized_shape: Any, x: Any) -> bool:
    given = normalized_shape if isinstance(normalized_shape, (tuple, list)) else (normalized_shape,)
    return isinstance(x, Term) and len(given) == 1 and shapes.same(given[0], x.shape[-1])


@word(F.layer_norm, torch.layer_norm)
def layer_norm(
    t: TermTable,
    r: Result,
    input: Any,
    normalized_shape: Any,
    weight: Any = None,
    bias: Any = None,
    eps: Any = 1e-5,
    cudnn_enable: bool = True,
) -> Meaning:
    if not normalises_last(normalized_shape, input) or not is_number(eps):
        return None
    args = [cast(t, input, r.dtype), t.number(eps), *(a for a in (weight, bias) if a is not None)]
    flags = (weight is not None, bias is not None)
    return build(t, "layer_norm", tuple(args), flags, r.dtype, r.shape)


@word(F.rms_norm, torch.rms_norm)
def rms_norm(
    t: TermTable, r: Result, input: Any, normalized_shape: Any, weight: Any = None, eps: Any = None
) -> Meaning:
    """eps=None is the machine epsilon of the dtype that torch computes in."""
    if not normalises_last(normalized_shape, input):
        return None
    if eps is None:
        eps = torch.finfo(torch.float64 if r.dtype == torch.float64 else torch.float32).eps
    if not is_number(eps):
        return None
    args = [cast(t, input, r.dtype), t.number(eps), *(() if weight is None else (weight,))]
    return build(t, "rms_norm", tuple(args), (weight is not None,), r.dtype, r.shape)
