"""Gradients where autograd is cut, frozen or bent: what eager gives, for every input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from tests.models.check import assert_like_eager
from tests.norm_program import norm, x_and_more

Tensor = torch.Tensor


def inputs(*wanted: bool) -> tuple[Tensor, Tensor, Tensor]:
    x, other, weight = x_and_more(6, 64)
    flags = wanted or (True, True, True)
    return (
        x.requires_grad_(flags[0]),
        other.requires_grad_(flags[1]),
        weight.requires_grad_(flags[2]),
    )


def plain(x: Tensor, other: Tensor, weight: Tensor) -> Any:
    total = x + other
    return norm(total, weight) * F.silu(total), total


def detached_statistics(x: Tensor, other: Tensor, weight: Tensor) -> Any:
    """The value of a norm, but the scale is a constant to autograd."""
    return weight * (x * torch.rsqrt(x.detach().pow(2).mean(-1, keepdim=True) + 1e-6))


def statistics_without_grad(x: Tensor, other: Tensor, weight: Tensor) -> Any:
    with torch.no_grad():
        scale = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)
    return weight * (x * scale)


def detached_scale(x: Tensor, other: Tensor, weight: Tensor) -> Any:
    scale = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6).detach()
    return weight * (x * scale)


def detached_unit(x: Tensor, other: Tensor, weight: Tensor) -> Any:
    unit = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)
    return weight * unit.detach() + x


def detached_weight(x: Tensor, other: Tensor, weight: Tensor) -> Any:
    return norm(x, weight.detach()) * weight


def norm_without_grad(x: Tensor, other: Tensor, weight: Tensor) -> Any:
    with torch.no_grad():
        y = norm(x, weight)
    return y * other


def detached_sum(x: Tensor, other: Tensor, weight: Tensor) -> Any:
    total = x + other
    return norm(total.detach(), weight), total


def detached_residual(x: Tensor, other: Tensor, weight: Tensor) -> Any:
    total = x + other.detach()
    return norm(total, weight), total


def detached_gate(x: Tensor, other: Tensor, weight: Tensor) -> Any:
    return F.silu(x).detach() * other


def gate_with_a_detached_sigmoid(x: Tensor, other: Tensor, weight: Tensor) -> Any:
    return x * torch.sigmoid(x).detach() * other


def detached_tables(x: Tensor, other: Tensor, weight: Tensor) -> Any:
    cos, sin = other.cos().detach(), other.sin().detach()
    return x * cos + torch.cat((-x[:, 32:], x[:, :32]), -1) * sin


def learned_tables(x: Tensor, other: Tensor, weight: Tensor) -> Any:
    return x * other.cos() + torch.cat((-x[:, 32:], x[:, :32]), -1) * other.sin()


def rotary_with_a_detached_half(x: Tensor, other: Tensor, weight: Tensor) -> Any:
    return x * other.cos() + torch.cat((-x[:, 32:].detach(), x[:, :32]), -1) * other.sin()


def detached_attention_weights(x: Tensor, other: Tensor, weight: Tensor) -> Any:
    q, k = x.view(1, 2, 3, 64), other.view(1, 2, 3, 64)
    return F.softmax(q @ k.mT * 0.125, dim=-1).detach() @ k


def detached_key(x: Tensor, other: Tensor, weight: Tensor) -> Any:
    q, k = x.view(1, 2, 3, 64), other.view(1, 2, 3, 64)
    return F.softmax(q @ k.detach().mT * 0.125, dim=-1) @ k


def statistics_escape(x: Tensor, other: Tensor, weight: Tensor) -> Any:
    scale = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)
    return weight * (x * scale), scale


def unit_escapes(x: Tensor, other: Tensor, weight: Tensor) -> Any:
    unit = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)
    return weight * unit, unit


def activation_escapes(x: Tensor, other: Tensor, weight: Tensor) -> Any:
    activated = F.silu(x)
    return activated * other, activated


def one_input_twice(x: Tensor, other: Tensor, weight: Tensor) -> Any:
    total = x + x
    return norm(total, weight), F.silu(x) * x


def checkpointed(x: Tensor, other: Tensor, weight: Tensor) -> Any:
    def block(x: Tensor, other: Tensor, weight: Tensor) -> Tensor:
        total = x + other
        return norm(total, weight) + F.silu(total) * other

    return checkpoint(block, x, other, weight, use_reentrant=False)


NORM, ROTARY = {"rms_norm": 1}, {"rotary": 1}
BOTH = {"add_rms_norm": 1, "silu_mul": 1}
PROGRAMS: dict[Callable[..., Any], dict[str, int]] = {
    plain: BOTH,
    detached_statistics: {},
    statistics_without_grad: {},
    detached_scale: {},
    detached_unit: NORM,
    detached_weight: NORM,
    norm_without_grad: NORM,
    detached_sum: NORM,
    detached_residual: {"add_rms_norm": 1},
    detached_gate: {},
    gate_with_a_detached_sigmoid: {},
    detached_tables: ROTARY,
    learned_tables: ROTARY,
    rotary_with_a_detached_half: {},
    detached_attention_weights: {"softmax": 1},
    detached_key: {"attention": 1},
    statistics_escape: {},
    unit_escapes: NORM,
    activation_escapes: {},
    one_input_twice: BOTH,
    checkpointed: BOTH,
}
"""What is rewritten in each: nothing that autograd does not see as it computes it."""


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
def test_gradients_like_eager(program: Callable[..., Any]) -> None:
    assert_like_eager(program, *inputs(), found=PROGRAMS[program])


def test_a_copy_without_grad_is_a_constant() -> None:
    """It has the value of its source, and none of its gradient."""

    def program(x: Tensor, other: Tensor, weight: Tensor) -> Any:
        hidden = x * other
        with torch.no_grad():
            constant = hidden.clone()
        return norm(constant, weight) * hidden

    assert_like_eager(program, *inputs(), found=NORM)


def test_what_is_computed_without_grad_is_another_value() -> None:
    """Equal numbers, and only one of them has a gradient: the norm reads that one."""

    def program(x: Tensor, other: Tensor, weight: Tensor) -> Any:
        with torch.no_grad():
            constant = x * other
        hidden = x * other
        return norm(hidden, weight), constant

    assert_like_eager(program, *inputs(), found=NORM)


WANTED = ((True, False, False), (False, True, False), (False, False, True), (False, False, False))


@pytest.mark.parametrize("wanted", WANTED, ids=str)
@pytest.mark.parametrize("program", (plain, learned_tables, checkpointed))
def test_only_some_inputs_want_a_gradient(
    program: Callable[..., Any], wanted: tuple[bool, bool, bool]
) -> None:
    assert_like_eager(program, *inputs(*wanted), found=PROGRAMS[program])


def test_fusions_are_found_in_a_checkpointed_block() -> None:
    counts = assert_like_eager(checkpointed, *inputs()).counts
    assert counts == {"add_rms_norm": 1, "silu_mul": 1}


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16))
def test_autocast_around(dtype: torch.dtype) -> None:
    """Norms stay in float32 under autocast, products and attention do not."""
    linear = torch.randn(64, 64)

    def program(x: Tensor, other: Tensor, weight: Tensor) -> Any:
        with torch.autocast("cpu", dtype):
            total = F.linear(norm(x, weight), linear) + other
            q = total.view(1, 2, 3, 64)
            return norm(F.scaled_dot_product_attention(q, q, q), weight)

    eager = program(*inputs(False, False, False))
    compiled = torch.compile(program, backend="tilegym", options={"tilegym.kernels": "always"})
    torch._dynamo.reset()
    actual = compiled(*inputs(False, False, False))
    assert actual.dtype == eager.dtype
    scale = eager.abs().max()
    assert (actual - eager).abs().max() <= 4 * torch.finfo(dtype).eps * scale


def test_autocast_begins_inside_a_norm() -> None:
    def program(x: Tensor, other: Tensor, weight: Tensor) -> Any:
        mean = x.pow(2).mean(-1, keepdim=True)
        with torch.autocast("cpu", torch.bfloat16):
            return x * torch.rsqrt(mean + 1e-6) * weight

    assert_like_eager(program, *inputs(), found={})


def test_vmap_over_a_norm() -> None:
    def program(x: Tensor, other: Tensor, weight: Tensor) -> Any:
        return torch.func.vmap(norm, in_dims=(0, None))(x, weight)

    assert_like_eager(program, *inputs(False, False, False), found={})


def test_grad_inside_the_compiled_function() -> None:
    def program(x: Tensor, other: Tensor, weight: Tensor) -> Any:
        return torch.func.grad(lambda x: (norm(x, weight) * other).sum())(x)

    assert_like_eager(program, *inputs(False, False, False), found={})
