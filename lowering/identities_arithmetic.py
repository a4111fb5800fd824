"""Identities of arithmetic: numbers, powers, quotients, signs, and the mean as a sum.

Each rule is under the equation that it states; see identities.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from tile_backend.lowering.identities import Args, build, rule
from tile_backend.lowering.terms import Term, TermTable, number_of


@rule("mul")
def times_one(t: TermTable, args: Args, attrs: Any, dtype: Any, shape: Any) -> Term | None:
    """x * 1 = x"""
    for x, one in (args, args[::-1]):
        if number_of(one) == 1.0 and x.dtype == dtype:
            return x
    return None


@rule("add")
def plus_zero(t: TermTable, args: Args, attrs: Any, dtype: Any, shape: Any) -> Term | None:
    """x + 0 = x for floating point (but for the sign of zero)"""
    for x, zero in (args, args[::-1]):
        if number_of(zero) == 0.0 and x.dtype == dtype:
            return x
    return None


@rule("mul")
def square(t: TermTable, args: Args, attrs: Any, dtype: Any, shape: Any) -> Term | None:
    """x * x = square(x)"""
    return build(t, "square", args[:1], (), dtype, shape) if args[0] is args[1] else None


@rule("pow")
def known_powers(t: TermTable, args: Args, attrs: Any, dtype: Any, shape: Any) -> Term | None:
    """x ** 2 = square(x), x ** 0.5 = sqrt(x), x ** -0.5 = rsqrt(x), x ** 1 = x"""
    exponent = number_of(args[1])
    names = {2.0: "square", 0.5: "sqrt", -0.5: "rsqrt", -1.0: "recip"}
    if exponent == 1.0:
        return args[0]
    return build(t, names[exponent], args[:1], (), dtype, shape) if exponent in names else None


@rule("square")
def square_of_root(t: TermTable, args: Args, attrs: Any, dtype: Any, shape: Any) -> Term | None:
    """sqrt(x) ** 2 = x for what is not negative, to an ulp, so only in float32"""
    inner: Term = args[0]
    return inner.args[0] if inner.op == "sqrt" and dtype == torch.float32 else None


@rule("mul")
def chained_powers(t: TermTable, args: Args, attrs: Any, dtype: Any, shape: Any) -> Term | None:
    """((c * x) * x) * x = c * x ** 3, to an ulp, so only in float32"""
    for product, base in (args, args[::-1]):
        if dtype != torch.float32 or base.dtype is None or product.dtype is None:
            continue
        known = power_of(product, base)
        if known is None or (known == (1.0, 1)):
            continue
        factor, exponent = known
        power = build(t, "pow", (base, t.number(exponent + 1)), (), dtype, base.shape)
        if factor == 1.0:
            return power
        return build(t, "mul", (power, t.number(factor)), (), dtype, shape)
    return None


def power_of(term: Term, base: Term) -> tuple[float, int] | None:
    """(c, n) where term is c * base ** n, else None."""
    if term is base:
        return 1.0, 1
    if term.op == "square" and term.args[0] is base:
        return 1.0, 2
    if term.op == "pow" and term.args[0] is base:
        exponent = number_of(term.args[1])
        return (1.0, int(exponent)) if exponent in (2.0, 3.0, 4.0) else None
    if term.op != "mul":
        return None
    for inner, number in (term.args, term.args[::-1]):
        factor = number_of(number)
        known = power_of(inner, base) if factor is not None else None
        if known is not None and factor is not None:
            return known[0] * factor, known[1]
    return None


@rule("recip")
def logistic(t: TermTable, args: Args, attrs: Any, dtype: Any, shape: Any) -> Term | None:
    """1 / (1 + exp(-x)) = sigmoid(x), to an ulp, so only in float32"""
    if args[0].op != "add" or dtype != torch.float32:
        return None
    for one, exponential in (args[0].args, args[0].args[::-1]):
        if number_of(one) == 1.0 and exponential.op == "exp" and exponential.args[0].op == "neg":
            return build(t, "sigmoid", exponential.args[0].args, (), dtype, shape)
    return None


@rule("div")
def divided_by_number(t: TermTable, args: Args, attrs: Any, dtype: Any, shape: Any) -> Term | None:
    """x / c = x * (1 / c), to an ulp of float32"""
    divisor = number_of(args[1])
    if args[0].dtype is None:
        return None
    if args[1].op == "scalar":  # a pattern: the number that the graph holds is the inverse
        name, power = args[1].attrs
        inverse = t.intern("scalar", (), (name, -power), None, ())
        return build(t, "mul", (args[0], inverse), (), dtype, shape)
    if not divisor:
        return None
    return build(t, "mul", (args[0], t.number(1.0 / divisor)), (), dtype, shape)


@rule("div")
def divided_by_tensor(t: TermTable, args: Args, attrs: Any, dtype: Any, shape: Any) -> Term | None:
    """x / y = x * recip(y), to an ulp, so only in float32"""
    x, y = args
    if dtype != torch.float32 or y.dtype is None:
        return None
    inverse = build(t, "recip", (y,), (), dtype, y.shape)
    if number_of(x) == 1.0:
        return inverse
    return build(t, "mul", (x, inverse), (), dtype, shape)


@rule("recip")
def inverse_root(t: TermTable, args: Args, attrs: Any, dtype: Any, shape: Any) -> Term | None:
    """1 / sqrt(x) = rsqrt(x), to an ulp, so only in float32"""
    if args[0].op != "sqrt" or dtype != torch.float32:
        return None
    return build(t, "rsqrt", args[0].args, (), dtype, shape)


@rule("sub")
def minus_number(t: TermTable, args: Args, attrs: Any, dtype: Any, shape: Any) -> Term | None:
    """x - c = x + (-c)"""
    number = number_of(args[1])
    return (
        None if number is None else build(t, "add", (args[0], t.number(-number)), (), dtype, shape)
    )


@rule("sub")
def minus_negative(t: TermTable, args: Args, attrs: Any, dtype: Any, shape: Any) -> Term | None:
    """x - (-y) = x + y"""
    if args[1].op != "neg":
        return None
    return build(t, "add", (args[0], args[1].args[0]), (), dtype, shape)


@rule("add")
def plus_negative(t: TermTable, args: Args, attrs: Any, dtype: Any, shape: Any) -> Term | None:
    """x + (-y) = x - y"""
    for x, y in (args, args[::-1]):
        if y.op == "neg" and x.dtype is not None:
            return build(t, "sub", (x, y.args[0]), (), dtype, shape)
    return None


@rule("neg")
def twice_negative(t: TermTable, args: Args, attrs: Any, dtype: Any, shape: Any) -> Term | None:
    """-(-x) = x"""
    inner: Term = args[0]
    return inner.args[0] if inner.op == "neg" else None


@rule("mul")
def product_of_negative(
    t: TermTable, args: Args, attrs: Any, dtype: Any, shape: Any
) -> Term | None:
    """(-x) * y = -(x * y)"""
    for x, y in (args, args[::-1]):
        if x.op == "neg":
            product = build(t, "mul", (x.args[0], y), (), dtype, shape)
            return build(t, "neg", (product,), (), dtype, shape)
    return None


@rule("mul")
def minus_one(t: TermTable, args: Args, attrs: Any, dtype: Any, shape: Any) -> Term | None:
    """x * -1 = -x"""
    for x, number in (args, args[::-1]):
        if number_of(number) == -1.0 and x.dtype == dtype:
            return build(t, "neg", (x,), (), dtype, shape)
    return None


@rule("mul")
def mean(t: TermTable, args: Args, attrs: Any, dtype: Any, shape: Any) -> Term | None:
    """sum(x) * (1 / n) = mean(x), to an ulp in float32; exactly, in bf16 for n a power of two"""
    for total, factor in (args, args[::-1]):
        scale = number_of(factor)
        if total.op != "sum" or not scale or dtype not in (torch.float32, torch.bfloat16):
            continue
        if dtype == torch.bfloat16 and abs(math.frexp(scale)[0]) != 0.5:
            continue
        source = total.args[0]
        count = 1
        for dim in total.attrs[0]:
            size = source.shape[dim]
            if not isinstance(size, int):
                return None
            count *= size
        if abs(scale * count - 1.0) < 1e-9:
            return build(t, "mean", total.args, total.attrs, dtype, shape)
    return None
