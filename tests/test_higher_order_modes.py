"""Autocast and grad modes, around a compiled function and inside it: what eager gives.

A fused op sees the values after autocast's casts, runs without autocast itself, and no rewrite
joins what a switch of mode separates. Results, dtypes and gradients are held against eager.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from tests.models.check import assert_like_eager
from tests.norm_program import norm

Tensor = torch.Tensor
B, H, S, D = 2, 4, 12, 16
WIDTH = H * D
LOW = (torch.bfloat16, torch.float16)


def inputs() -> tuple[Tensor, ...]:
    """x [B, S, WIDTH], the weight of a norm, and of a projection to 3 * WIDTH."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(B, S, WIDTH, generator=generator)
    weight = torch.rand(WIDTH, generator=generator) + 0.5
    wide = torch.randn(3 * WIDTH, WIDTH, generator=generator) / 8
    return tuple(t.requires_grad_() for t in (x, weight, wide))


def norms(x: Tensor, weight: Tensor, wide: Tensor) -> Any:
    """In float32, also where a product before it was not."""
    mixed = F.linear(norm(x, weight), wide[:WIDTH])
    return norm(mixed + x, weight), F.layer_norm(mixed, (WIDTH,), weight)


def gate(x: Tensor, weight: Tensor, wide: Tensor) -> Tensor:
    gate, up = F.linear(norm(x, weight), wide[: 2 * WIDTH]).chunk(2, -1)
    return F.linear(F.silu(gate) * up, wide[:WIDTH])


def tables(device: str) -> tuple[Tensor, Tensor]:
    """As Transformers computes them: in float32 whatever autocast says. [1, 1, S, D]."""
    with torch.autocast(device_type=device, enabled=False):
        inverse = 1.0 / 100 ** (torch.arange(0, D, 2).float() / D)
        angles = (torch.arange(S).float()[:, None] @ inverse[None, :])[None, None]
        both = torch.cat((angles, angles), -1)
        return both.cos(), both.sin()


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat((-second, first), -1) * sin


def attention(x: Tensor, weight: Tensor, wide: Tensor) -> Tensor:
    cos, sin = (table.to(x.dtype) for table in tables("cpu"))
    q, k, v = F.linear(x, wide).unflatten(-1, (3, H, D)).permute(2, 0, 3, 1, 4)
    q, k = rotated(q, cos, sin), rotated(k, cos, sin)
    a = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return F.linear(a.transpose(1, 2).flatten(2), wide[:WIDTH]) + x


def attention_of_two_dtypes(x: Tensor, weight: Tensor, wide: Tensor) -> Tensor:
    """As in DeepSeek's models: a query of a projected and a rotated part, which is in float32."""
    cos, sin = tables("cpu")
    q, k, v = F.linear(x, wide).unflatten(-1, (3, H, D)).permute(2, 0, 3, 1, 4)
    q, k = (torch.cat((part, rotated(part, cos, sin)), -1) for part in (q, k))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


PROGRAMS = {
    norms: {"rms_norm": 1, "add_rms_norm": 1, "layer_norm": 1},
    gate: {"rms_norm": 1, "silu_mul": 1},
    attention: {"rotary": 1, "attention": 1},
    attention_of_two_dtypes: {"rotary": 1, "attention": 1},
}
programs = pytest.mark.parametrize(("program", "counts"), PROGRAMS.items())
low = pytest.mark.parametrize("dtype", LOW, ids=str)
low_once = pytest.mark.parametrize(
    "dtype", [LOW[0], pytest.param(LOW[1], marks=pytest.mark.full)], ids=str
)


def inside(program: Callable[..., Any], dtype: torch.dtype) -> Callable[..., Any]:
    def run(*given: Tensor) -> Any:
        with torch.autocast("cpu", dtype):
            return program(*given)

    return run


@low
@programs
def test_autocast_around(program: Any, counts: Any, dtype: torch.dtype) -> None:
    around = functools.partial(torch.autocast, "cpu", dtype)
    assert assert_like_eager(program, *inputs(), around=around).counts == counts


@low_once
@programs
def test_autocast_inside(program: Any, counts: Any, dtype: torch.dtype) -> None:
    assert assert_like_eager(inside(program, dtype), *inputs()).counts == counts


def test_a_checkpointed_region_under_autocast() -> None:
    """The region runs again in the backward, under the autocast of the forward."""

    def program(*given: Tensor) -> Any:
        return checkpoint(gate, *given, use_reentrant=False)

    around = functools.partial(torch.autocast, "cpu", torch.bfloat16)
    assert assert_like_eager(program, *inputs(), around=around).counts == PROGRAMS[gate]


def switched_inside_a_norm(x: Tensor, weight: Tensor, wide: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        mixed = F.linear(x, wide[:WIDTH])
        mean = mixed.pow(2).mean(-1, keepdim=True)
    return weight * (mixed * torch.rsqrt(mean + 1e-6))


def test_no_rewrite_reaches_across_a_switch() -> None:
    report = assert_like_eager(switched_inside_a_norm, *inputs())
    assert not report.counts
    assert "has a side effect between" in str([site.reason for site in report.sites])


# --- grad modes -----------------------------------------------------------------------------------


def without(mode: Callable[[], Any]) -> Callable[..., Any]:
    """The first norm has no gradient, and so the gate has one by its other operand alone."""

    def program(x: Tensor, weight: Tensor, wide: Tensor) -> Any:
        with mode():
            frozen = norm(x, weight)
        return F.silu(frozen) * F.linear(x, wide[:WIDTH]), norm(x, weight)

    return program


def grad_off_and_on(x: Tensor, weight: Tensor, wide: Tensor) -> Any:
    before = torch.is_grad_enabled()
    torch.set_grad_enabled(False)
    frozen = norm(x, weight)
    torch.set_grad_enabled(True)
    live = norm(x + 1, weight)
    torch.set_grad_enabled(before)
    return F.silu(frozen) * live


def enabled_within_disabled(x: Tensor, weight: Tensor, wide: Tensor) -> Any:
    with torch.no_grad():
        frozen = norm(x, weight)
        with torch.enable_grad():
            live = norm(x + frozen, weight)
    return F.silu(frozen) * live


@pytest.mark.parametrize(
    "program",
    [
        without(torch.no_grad),
        without(torch.inference_mode),
        grad_off_and_on,
        enabled_within_disabled,
    ],
    ids=("no_grad", "inference_mode", "set_grad_enabled", "enable_grad"),
)
def test_grad_modes(program: Any) -> None:
    """Both norms are found, the gate too, and the frozen norm stays frozen."""
    counts = assert_like_eager(program, *inputs()).counts
    assert counts.get("rms_norm", 0) + counts.get("add_rms_norm", 0) == 2
    assert counts["silu_mul"] == 1


def test_a_gradient_checkpointed_without_grad() -> None:
    def program(x: Tensor, weight: Tensor, wide: Tensor) -> Any:
        with torch.no_grad():
            frozen = checkpoint(norm, x, weight, use_reentrant=False)
        return checkpoint(norm, x + frozen, weight, use_reentrant=False)

    assert assert_like_eager(program, *inputs()).counts == {"rms_norm": 2}
