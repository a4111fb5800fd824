"""Other ways to write arithmetic, casts, reductions and activations.

Each function takes the fake result and the operands of a call, and returns functions of the same
operands as FX proxies that compute the same. What holds for float32 only says so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

Way = Callable[..., Any]


def arithmetic(result: torch.Tensor, a: Any, b: Any, **_: Any) -> list[Way]:
    ways: list[Way] = [lambda a, b: a * b, lambda a, b: b * a]
    if isinstance(a, torch.Tensor):
        ways += [torch.mul, torch.multiply, lambda a, b: a.mul(b)]
    if a is b:
        ways += [lambda a, b: torch.square(a), lambda a, b: a.square(), lambda a, b: a**2]
    return ways


def sums(result: torch.Tensor, a: Any, b: Any, **_: Any) -> list[Way]:
    ways: list[Way] = [lambda a, b: a + b, lambda a, b: b + a]
    if isinstance(a, torch.Tensor):
        ways += [torch.add, lambda a, b: a.add(b)]
    return ways


def differences(result: torch.Tensor, a: Any, b: Any, **_: Any) -> list[Way]:
    if not isinstance(a, torch.Tensor):
        return []
    return [
        torch.sub,
        torch.subtract,
        lambda a, b: a.sub(b),
        lambda a, b: a + (-b),
    ]


def quotients(result: torch.Tensor, a: Any, b: Any, **_: Any) -> list[Way]:
    if not isinstance(a, torch.Tensor):
        return []
    ways: list[Way] = [torch.div, torch.true_divide, lambda a, b: a.div(b)]
    if result.dtype == torch.float32 and isinstance(b, float):
        ways.append(lambda a, b: a * (1.0 / b))
    return ways


def negations(result: torch.Tensor, a: Any) -> list[Way]:
    return [lambda a: -a, torch.neg, torch.negative, lambda a: a.neg(), lambda a: a * -1]


def powers(result: torch.Tensor, a: Any, exponent: Any) -> list[Way]:
    ways: list[Way] = [
        lambda a, *e, **k: torch.pow(a, exponent),
        lambda a, *e, **k: a**exponent,
        lambda a, *e, **k: a.pow(float(exponent)),
        lambda a, *e, **k: torch.pow(a, exponent=exponent),
    ]
    if exponent == 2:
        ways += [
            lambda a, *e, **k: a * a,
            lambda a, *e, **k: torch.square(a),
            lambda a, *e, **k: a.square(),
        ]
    return ways


def inverse_roots(result: torch.Tensor, a: Any) -> list[Way]:
    ways: list[Way] = [torch.rsqrt, lambda a: a.rsqrt()]
    if result.dtype == torch.float32:
        ways += [
            lambda a: a.pow(-0.5),
            lambda a: a**-0.5,
            lambda a: torch.pow(a, -0.5),
            lambda a: 1.0 / torch.sqrt(a),
            lambda a: 1 / a.sqrt(),
            lambda a: torch.reciprocal(a.sqrt()),
            lambda a: torch.sqrt(a).reciprocal(),
            lambda a: 1 / (a**0.5),
        ]
    return ways


def means(result: torch.Tensor, a: Any, dim: Any, keepdim: bool = False, **_: Any) -> list[Way]:
    rank, size = a.dim(), a.shape[dim] if type(dim) is int else 0
    if dim not in (-1, rank - 1) or not keepdim:
        return []
    ways: list[Way] = [
        lambda a, d, **k: a.mean(-1, True),
        lambda a, d, **k: a.mean(dim=(-1,), keepdim=True),
        lambda a, d, **k: a.mean([rank - 1], keepdim=True),
        lambda a, d, **k: torch.mean(a, dim=rank - 1, keepdim=True),
        lambda a, d, **k: a.mean(-1).unsqueeze(-1),
        lambda a, d, **k: torch.mean(a, -1)[..., None],
    ]
    if result.dtype == torch.float32:
        ways += [
            lambda a, d, **k: a.sum(-1, keepdim=True) / size,
            lambda a, d, **k: torch.sum(a, dim=-1, keepdim=True) * (1.0 / size),
            lambda a, d, **k: a.sum(-1)[..., None].div(size),
        ]
    return ways


def casts(result: torch.Tensor, a: Any, *_: Any, **__: Any) -> list[Way]:
    dtype = result.dtype
    named = {torch.float32: "float", torch.bfloat16: "bfloat16", torch.float16: "half"}.get(dtype)
    if named is None:
        return []
    return [
        lambda a, *r, **k: a.to(dtype),
        lambda a, *r, **k: a.to(dtype=dtype),
        lambda a, *r, **k: a.type(dtype),
        lambda a, *r, **k: getattr(a, named)(),
        lambda a, *r, **k: a.to(dtype, copy=True),
        lambda a, *r, **k: a.to("cpu", dtype),
    ]


def fills(result: torch.Tensor, a: Any, mask: Any, fill: Any) -> list[Way]:
    return [
        torch.masked_fill,
        lambda a, m, v: a.masked_fill(m, float(v)),
        lambda a, m, v: torch.where(m, v, a),
        lambda a, m, v: torch.where(~m, a, v),
    ]


def choices(result: torch.Tensor, mask: Any, a: Any, b: Any) -> list[Way]:
    if not isinstance(a, torch.Tensor):
        return []
    return [torch.where, lambda m, a, b: a.where(m, b), lambda m, a, b: a.masked_fill(~m, b)]


def sigmoids(result: torch.Tensor, a: Any) -> list[Way]:
    return [torch.sigmoid, F.sigmoid, lambda a: a.sigmoid()]


def hyperbolic(result: torch.Tensor, a: Any) -> list[Way]:
    return [torch.tanh, F.tanh, lambda a: a.tanh()]


def silus(result: torch.Tensor, a: Any, **_: Any) -> list[Way]:
    ways: list[Way] = [lambda a, **k: F.silu(a)]
    if result.dtype == torch.float32:
        ways += [lambda a, **k: a * torch.sigmoid(a), lambda a, **k: a.sigmoid() * a]
    return ways


def gelus(result: torch.Tensor, a: Any, approximate: str = "none") -> list[Way]:
    return [lambda a, **k: F.gelu(a, approximate=approximate)]
