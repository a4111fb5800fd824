"""Words for element-wise arithmetic, casts and reductions."""

from __future__ import annotations

import operator
from typing import Any

import torch
import torch.nn.functional as F

from tile_backend.lowering import shapes
from tile_backend.lowering.identities import build, cast
from tile_backend.lowering.identities_layout import reshape
from tile_backend.lowering.terms import Term, TermTable
from tile_backend.lowering.vocabulary import (
    Meaning,
    Result,
    Word,
    dimensions,
    is_number,
    operands,
    word,
)


def pointwise(op: str, t: TermTable, r: Result, *arguments: Any, attrs: Any = ()) -> Meaning:
    """A floating-point or complex element-wise op in the dtype of its result."""
    if not isinstance(r.value, torch.Tensor) or not (r.is_float or r.dtype.is_complex):
        return None
    found = operands(t, r, *arguments)
    return None if found is None else build(t, op, found, attrs, r.dtype, r.shape)


def unary(op: str) -> Word:
    def meaning(t: TermTable, r: Result, input: Any) -> Meaning:
        return pointwise(op, t, r, input)

    return meaning


def binary(op: str, reverse: bool = False) -> Word:
    def meaning(t: TermTable, r: Result, input: Any, other: Any) -> Meaning:
        return pointwise(op, t, r, *((other, input) if reverse else (input, other)))

    return meaning


UNARY: dict[str, tuple[Any, ...]] = {
    "neg": ("neg", "negative", torch.neg, torch.negative, operator.neg),
    "abs": ("abs", "absolute", torch.abs, torch.absolute, operator.abs),
    "square": ("square", torch.square),
    "rsqrt": ("rsqrt", torch.rsqrt),
    "sqrt": ("sqrt", torch.sqrt),
    "recip": ("reciprocal", torch.reciprocal),
    "exp": ("exp", torch.exp),
    "erf": ("erf", torch.erf, torch.special.erf),
    "tanh": ("tanh", torch.tanh, F.tanh),
    "sigmoid": ("sigmoid", torch.sigmoid, F.sigmoid, torch.special.expit),
    "cos": ("cos", torch.cos),
    "sin": ("sin", torch.sin),
}
BINARY: dict[str, tuple[Any, ...]] = {
    "mul": ("mul", "multiply", "__mul__", "__rmul__", torch.mul, torch.multiply, operator.mul),
}
for _op, _names in UNARY.items():
    word(*_names)(unary(_op))
for _op, _names in BINARY.items():
    word(*_names)(binary(_op))


@word("pow", "__pow__", torch.pow, operator.pow)
def power(t: TermTable, r: Result, input: Any, exponent: Any) -> Meaning:
    return pointwise("pow", t, r, input, exponent)


word("__rpow__")(binary("pow", reverse=True))
word("__rsub__", "rsub")(binary("sub", reverse=True))
word("__rtruediv__", "__rdiv__")(binary("div", reverse=True))


def scaled(op: str) -> Word:
    def meaning(t: TermTable, r: Result, input: Any, other: Any, *, alpha: Any = 1) -> Meaning:
        return pointwise(op, t, r, input, other) if alpha == 1 else None

    return meaning


word("add", "__add__", "__radd__", torch.add, operator.add)(scaled("add"))
word("sub", "subtract", "__sub__", torch.sub, torch.subtract, operator.sub)(scaled("sub"))


@word("div", "divide", "true_divide", "__truediv__", "__div__")
@word(torch.div, torch.divide, torch.true_divide, operator.truediv)
def div(t: TermTable, r: Result, input: Any, other: Any, *, rounding_mode: Any = None) -> Meaning:
    return pointwise("div", t, r, input, other) if rounding_mode is None else None


@word("addcmul", torch.addcmul)
def addcmul(
    t: TermTable, r: Result, input: Any, tensor1: Any, tensor2: Any, *, value: Any = 1
) -> Meaning:
    """input + tensor1 * tensor2, in float32 only: in low precision it rounds just once."""
    if value != 1 or not r.is_float or r.dtype != torch.float32:
        return None
    product = pointwise("mul", t, r, tensor1, tensor2)
    return pointwise("add", t, r, input, product)


@word("baddbmm", torch.baddbmm)
def baddbmm(
    t: TermTable, r: Result, input: Any, batch1: Any, batch2: Any, *, beta: Any = 1, alpha: Any = 1
) -> Meaning:
    """input + batch1 @ batch2, in float32 only: in low precision it rounds just once."""
    if (beta, alpha) != (1, 1) or r.dtype != torch.float32:
        return None
    if not (isinstance(batch1, Term) and isinstance(batch2, Term)):
        return None
    product = build(t, "matmul", (batch1, batch2), (), r.dtype, r.shape)
    return pointwise("add", t, r, input, product)


@word("float", "half", "bfloat16", "double")
def to_named(t: TermTable, r: Result, input: Any) -> Meaning:
    return cast(t, input, r.dtype)


@word("type_as")
def type_as(t: TermTable, r: Result, input: Any, other: Any) -> Meaning:
    return to_any(t, r, input, other)


@word("to", "type")
def to_any(t: TermTable, r: Result, input: Any, *args: Any, **kwargs: Any) -> Meaning:
    """A cast; a move to another device, or a copy, is not looked through."""
    if kwargs.get("memory_format") is not None:
        return None
    devices = [a for a in (*args, kwargs.get("device")) if isinstance(a, (str, torch.device))]
    if any(torch.device(d).type != r.value.device.type for d in devices):
        return None
    return cast(t, input, r.dtype)


@word("gelu", F.gelu, torch._C._nn.gelu)
def gelu(t: TermTable, r: Result, input: Any, approximate: str = "none") -> Meaning:
    return pointwise("gelu", t, r, input, attrs=(approximate,))


def activation(op: str) -> Word:
    def meaning(t: TermTable, r: Result, input: Any, inplace: bool = False) -> Meaning:
        return None if inplace else pointwise(op, t, r, input)

    return meaning


word(F.silu, torch._C._nn.silu)(activation("silu"))
word("relu", F.relu, torch.relu)(activation("relu"))


@word(torch.where)
def where(t: TermTable, r: Result, condition: Any, input: Any, other: Any) -> Meaning:
    """where(mask, number, x) = masked_fill(x, mask, number)"""
    if not r.is_float or not isinstance(condition, Term):
        return None
    if is_number(input) and isinstance(other, Term) and shapes.equal(other.shape, r.shape):
        return masked_fill(t, r, cast(t, other, r.dtype), condition, input)
    found = operands(t, r, input, other)
    return found and build(t, "where", (condition, *found), (), r.dtype, r.shape)


@word("where")
def where_method(t: TermTable, r: Result, input: Any, condition: Any, other: Any) -> Meaning:
    """The method's own tensor is taken where the condition holds."""
    return where(t, r, condition, input, other)


@word("masked_fill", torch.masked_fill)
def masked_fill(t: TermTable, r: Result, input: Any, mask: Any, value: Any) -> Meaning:
    if not r.is_float or not isinstance(mask, Term) or not is_number(value):
        return None
    args = (input, mask, t.number(value))
    return build(t, "masked_fill", args, (), r.dtype, r.shape)


# --- reductions -----------------------------------------------------------------------------------


def reduced(op: str, t: TermTable, r: Result, x: Any, dim: Any, keepdim: bool) -> Term | None:
    """The reduction with kept dimensions, then a reshape if they are dropped."""
    dims = dimensions(dim, x.rank) if isinstance(x, Term) else None
    if dims is None or not r.is_float:
        return None
    wide = cast(t, x, r.dtype)
    kept = tuple(1 if i - x.rank in dims else s for i, s in enumerate(x.shape))
    found = build(t, op, (wide,), (dims,), r.dtype, kept)
    return found if keepdim else reshape(t, found, r.shape)


def reduction(op: str) -> Word:
    def meaning(
        t: TermTable,
        r: Result,
        input: Any,
        dim: Any = None,
        keepdim: bool = False,
        *,
        dtype: Any = None,
    ) -> Meaning:
        return reduced(op, t, r, input, dim, keepdim)

    return meaning


word("mean", torch.mean)(reduction("mean"))
word("sum", torch.sum)(reduction("sum"))
word("amax", torch.amax)(reduction("amax"))


@word("max", torch.max)
def maximum(t: TermTable, r: Result, input: Any, dim: Any, keepdim: bool = False) -> Meaning:
    """(values, indices); only the values have a canonical name."""
    values = Result(r.value[0]) if isinstance(r.value, tuple) else None
    found = values and reduced("amax", t, values, input, dim, keepdim)
    return (found,) if found else None


@word("var", torch.var)
def var(
    t: TermTable,
    r: Result,
    input: Any,
    dim: Any = None,
    unbiased: Any = None,
    keepdim: bool = False,
    *,
    correction: Any = None,
) -> Meaning:
    """mean((x - mean(x)) ** 2), to an ulp, when the biased variance was asked for in float32."""
    if not r.is_float or not isinstance(input, Term):
        return None
    if not (unbiased is False or correction == 0) or r.dtype != torch.float32:
        biased = unbiased is False or correction == 0
        return reduced("var" if biased else "unbiased_var", t, r, input, dim, keepdim)
    centre = reduced("mean", t, r, input, dim, True)
    if centre is None:
        return None
    centred = build(t, "sub", (input, centre), (), r.dtype, input.shape)
    squares = build(t, "square", (centred,), (), r.dtype, input.shape)
    return reduced("mean", t, r, squares, dim, keepdim)


@word("std", torch.std)
def std(t: TermTable, r: Result, input: Any, *args: Any, **kwargs: Any) -> Meaning:
    found = var(t, r, input, *args, **kwargs)
    return build(t, "sqrt", (found,), (), r.dtype, r.shape) if isinstance(found, Term) else None


@word("norm", torch.norm, torch.linalg.norm)
def norm(
    t: TermTable, r: Result, input: Any, p: Any = 2, dim: Any = None, keepdim: bool = False
) -> Meaning:
    """sqrt(sum(x ** 2)) for the Euclidean norm"""
    if p not in (2, 2.0) or not r.is_float or not isinstance(input, Term):
        return None
    wide = cast(t, input, r.dtype)
    squares = build(t, "square", (wide,), (), r.dtype, input.shape)
    total = reduced("sum", t, r, squares, dim, keepdim)
    return total and build(t, "sqrt", (total,), (), r.dtype, r.shape)


@word(torch.linalg.vector_norm)
def vector_norm(
    t: TermTable,
    r: Result,
    input: Any,
    ord: Any = 2,  # noqa: A002 - torch's own name
    dim: Any = None,
    keepdim: bool = False,
    *,
    dtype: Any = None,
) -> Meaning:
    """As `norm`; a dtype is that of the result, in which it is computed."""
    return norm(t, r, input, ord, dim, keepdim)


@word(torch.var_mean)
def var_mean(
    t: TermTable, r: Result, input: Any, dim: Any = None, *args: Any, **kwargs: Any
) -> Meaning:
    """(variance, mean)"""
    values, means = (Result(v) for v in r.value)
    keepdim = bool(kwargs.get("keepdim", args[1] if len(args) > 1 else False))
    variance = var(t, values, input, dim, *args, **kwargs)
    mean = reduced("mean", t, means, input, dim, keepdim)
    return (variance, mean) if isinstance(variance, Term) and mean is not None else None
