"""Values written in place around and inside what looks like a fusion: rewritten correctly, or not.

`FORBIDDEN` programs must keep their original ops; `ALLOWED` ones mutate where it does no harm.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tests.models.check import assert_like_eager
from tests.norm_program import norm, x_and_more

Tensor = torch.Tensor


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    return x_and_more(4, 64)


# --- the value that the product reads is not the one that was squared -----------------------------


def between_mean_and_product(x: Tensor, other: Tensor, weight: Tensor) -> Tensor:
    mean = x.pow(2).mean(-1, keepdim=True)
    x.add_(other)
    return x * torch.rsqrt(mean + 1e-6) * weight


def between_square_and_mean(x: Tensor, other: Tensor, weight: Tensor) -> Tensor:
    square = x.pow(2)
    x.mul_(2)
    return x * torch.rsqrt(square.mean(-1, keepdim=True) + 1e-6) * weight


def square_itself_is_written(x: Tensor, other: Tensor, weight: Tensor) -> Tensor:
    square = x.pow(2)
    square.add_(other)
    return x * torch.rsqrt(square.mean(-1, keepdim=True) + 1e-6) * weight


def through_a_view(x: Tensor, other: Tensor, weight: Tensor) -> Tensor:
    head = x[:, :8]
    mean = x.pow(2).mean(-1, keepdim=True)
    head.copy_(other[:, :8])
    return x * torch.rsqrt(mean + 1e-6) * weight


def through_setitem(x: Tensor, other: Tensor, weight: Tensor) -> Tensor:
    mean = x.pow(2).mean(-1, keepdim=True)
    x[0] = other[0]
    return x * torch.rsqrt(mean + 1e-6) * weight


def through_out(x: Tensor, other: Tensor, weight: Tensor) -> Tensor:
    mean = x.pow(2).mean(-1, keepdim=True)
    torch.add(x, other, out=x)
    return x * torch.rsqrt(mean + 1e-6) * weight


def through_a_transposed_view(x: Tensor, other: Tensor, weight: Tensor) -> Tensor:
    turned = x.t()
    mean = x.pow(2).mean(-1, keepdim=True)
    turned.zero_().add_(other.t())
    return x * torch.rsqrt(mean + 1e-6) * weight


def weight_is_written(x: Tensor, other: Tensor, weight: Tensor) -> Tensor:
    scaled = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)
    first = scaled * weight
    weight.add_(1)
    return first + scaled * weight


def interior_is_written(x: Tensor, other: Tensor, weight: Tensor) -> Tensor:
    unit = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)
    unit.add_(other)
    return weight * unit


def through_an_interior_view(x: Tensor, other: Tensor, weight: Tensor) -> Tensor:
    unit = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)
    unit[:, 0] = 3.0
    return weight * unit


FORBIDDEN = (
    between_mean_and_product,
    between_square_and_mean,
    square_itself_is_written,
    through_a_view,
    through_setitem,
    through_out,
    through_a_transposed_view,
)
"""No norm of any kind may be found here: what is computed is not one."""


@pytest.mark.parametrize("program", FORBIDDEN, ids=lambda program: program.__name__)
def test_not_a_norm(program: Callable[..., Any]) -> None:
    counts = assert_like_eager(program, *inputs()).counts
    assert not counts.keys() & {"rms_norm", "add_rms_norm"}, counts


@pytest.mark.parametrize(
    ("program", "found"),
    (
        (weight_is_written, {"rms_norm": 1}),
        (interior_is_written, {"add_rms_norm": 1}),
        (through_an_interior_view, {}),
    ),
)
def test_what_is_left_of_a_norm(program: Callable[..., Any], found: dict[str, int]) -> None:
    """The scaling by a weight that is written to later; a sum that was written in place."""
    assert_like_eager(program, *inputs(), found=found)


# --- mutation before or after does no harm --------------------------------------------------------


def before(x: Tensor, other: Tensor, weight: Tensor) -> Tensor:
    x.add_(other)
    return norm(x, weight)


def after(x: Tensor, other: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    y = norm(x, weight)
    x.add_(other)
    return y, x


def result(x: Tensor, other: Tensor, weight: Tensor) -> Tensor:
    y = norm(x, weight)
    y.add_(other)
    return y


def unrelated(x: Tensor, other: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    mean = x.pow(2).mean(-1, keepdim=True)
    other.add_(1)
    return x * torch.rsqrt(mean + 1e-6) * weight, other


@pytest.mark.parametrize("program", (before, after, result), ids=lambda program: program.__name__)
def test_still_a_norm(program: Callable[..., Any]) -> None:
    counts = assert_like_eager(program, *inputs()).counts
    assert sum(counts.get(name, 0) for name in ("rms_norm", "add_rms_norm")) == 1, counts


def test_a_write_to_something_else_in_between_is_right() -> None:
    assert_like_eager(unrelated, *inputs(), found={"rms_norm": 1})


# --- residuals, gates, attention ------------------------------------------------------------------


def residual_in_place(x: Tensor, other: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    other += x
    return norm(other, weight), other


def residual_written_after_the_sum(x: Tensor, other: Tensor, weight: Tensor) -> Any:
    total = x + other
    total.mul_(2)
    return norm(total, weight), total


def sum_written_after_the_norm(x: Tensor, other: Tensor, weight: Tensor) -> Any:
    total = x + other
    y = norm(total, weight)
    total.mul_(2)
    return y, total


def gate_in_place(x: Tensor, other: Tensor, weight: Tensor) -> Any:
    return F.silu(x, inplace=True) * other, x


def product_in_place(x: Tensor, other: Tensor, weight: Tensor) -> Any:
    return F.silu(x).mul_(other), x


def gate_written_before_the_product(x: Tensor, other: Tensor, weight: Tensor) -> Any:
    activated = F.silu(x)
    activated.add_(1)
    return activated * other


def old_gate_and_new_input(x: Tensor, other: Tensor, weight: Tensor) -> Any:
    """What was activated is not what is there when the product is made."""
    activated = F.silu(x)
    x.add_(1)
    return activated * other, x


def up_written_before_the_product(x: Tensor, other: Tensor, weight: Tensor) -> Any:
    activated = F.gelu(x)
    other.neg_()
    return activated * other, other


def half_of_a_packed_gate_is_written(x: Tensor, other: Tensor, weight: Tensor) -> Any:
    gate, up = x.chunk(2, dim=-1)
    activated = F.silu(gate)
    up.zero_()
    return activated * up, x


def scores_in_place(x: Tensor, other: Tensor, weight: Tensor) -> Any:
    q, k = x.view(1, 4, 4, 16), other.view(1, 4, 4, 16)
    scores = q @ k.transpose(-1, -2)
    scores /= 4.0
    scores.masked_fill_(torch.ones(4, 4, dtype=torch.bool).triu(1), float("-inf"))
    return F.softmax(scores, dim=-1) @ k


def cache_between_key_and_attention(x: Tensor, other: Tensor, weight: Tensor) -> Any:
    q, cache = x.view(1, 4, 4, 16), other.view(1, 4, 4, 16)
    cache[:, :, 1:2] = q[:, :, :1] * 2
    return F.scaled_dot_product_attention(q, cache, cache), cache


def value_written_after_attention(x: Tensor, other: Tensor, weight: Tensor) -> Any:
    q, v = x.view(1, 4, 4, 16), other.view(1, 4, 4, 16)
    y = F.scaled_dot_product_attention(q, v, v)
    v.zero_()
    return y, v


def key_written_between_scores_and_product(x: Tensor, other: Tensor, weight: Tensor) -> Any:
    q, v = x.view(1, 4, 4, 16), other.view(1, 4, 4, 16)
    weights = F.softmax(q @ v.transpose(-1, -2) * 0.25, dim=-1)
    v.mul_(3)
    return weights @ v


def rotated_in_place(x: Tensor, other: Tensor, weight: Tensor) -> Any:
    cos, sin = other.cos(), other.sin()
    half = torch.cat((-x[:, 32:], x[:, :32]), -1)
    x.mul_(cos)
    return x + half * sin


FOUND: dict[Callable[..., Any], dict[str, int]] = {
    residual_in_place: {"rms_norm": 1},
    residual_written_after_the_sum: {"rms_norm": 1},
    sum_written_after_the_norm: {"add_rms_norm": 1},
    gate_in_place: {},
    product_in_place: {"silu_mul": 1},
    gate_written_before_the_product: {},
    old_gate_and_new_input: {},
    up_written_before_the_product: {"gelu_mul": 1},
    half_of_a_packed_gate_is_written: {},
    scores_in_place: {"attention": 1},
    cache_between_key_and_attention: {"attention": 1},
    value_written_after_attention: {"attention": 1},
    key_written_between_scores_and_product: {"softmax": 1},
    rotated_in_place: {},
}


@pytest.mark.parametrize("program", FOUND, ids=lambda program: program.__name__)
def test_like_eager(program: Callable[..., Any]) -> None:
    assert_like_eager(program, *inputs(), found=FOUND[program])
