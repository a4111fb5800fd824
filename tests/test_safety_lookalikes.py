"""Programs that look like a fusion and are another function: the fusion must not be found in them.

Each is also compared with eager, because a lookalike may hold another fusion that is found rightly.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tests.models.check import assert_like_eager

Tensor = torch.Tensor
NORMS = ("rms_norm", "add_rms_norm", "layer_norm", "add_layer_norm")
Program = Callable[[Tensor, Tensor, Tensor], Any]
PROGRAMS: list[tuple[Program, tuple[str, ...]]] = []


def never(*fusions: str) -> Callable[[Program], Program]:
    """The program must not contain these fusions."""

    def add(program: Program) -> Program:
        PROGRAMS.append((program, fusions))
        return program

    return add


# --- norms: x, other [64, 64] (square, so that a wrong broadcast does not fail), weight [64] ------


@never(*NORMS)
def mean_over_rows(x: Tensor, other: Tensor, weight: Tensor) -> Any:
    return weight * (x * torch.rsqrt(x.pow(2).mean(0, keepdim=True) + 1e-6))


@never(*NORMS)
def mean_without_keepdim(x: Tensor, other: Tensor, weight: Tensor) -> Any:
    return weight * (x * torch.rsqrt(x.pow(2).mean(-1) + 1e-6))


@never(*NORMS)
def mean_over_everything(x: Tensor, other: Tensor, weight: Tensor) -> Any:
    return weight * (x * torch.rsqrt(x.pow(2).mean() + 1e-6))


@never(*NORMS)
def mean_over_two_dimensions(x: Tensor, other: Tensor, weight: Tensor) -> Any:
    return weight * (x * torch.rsqrt(x.pow(2).mean((0, 1), keepdim=True) + 1e-6))


@never(*NORMS)
def another_tensor_is_scaled(x: Tensor, other: Tensor, weight: Tensor) -> Any:
    return weight * (other * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


@never(*NORMS)
def product_of_two(x: Tensor, other: Tensor, weight: Tensor) -> Any:
    return weight * (x * torch.rsqrt((x * other).abs().mean(-1, keepdim=True) + 1e-6))


@never(*NORMS)
def fourth_power(x: Tensor, other: Tensor, weight: Tensor) -> Any:
    return weight * (x * torch.rsqrt(x.pow(4).mean(-1, keepdim=True) + 1e-6))


@never(*NORMS)
def sum_of_squares(x: Tensor, other: Tensor, weight: Tensor) -> Any:
    return weight * (x * torch.rsqrt(x.pow(2).sum(-1, keepdim=True) + 1e-6))


@never(*NORMS)
def root_not_reciprocal(x: Tensor, other: Tensor, weight: Tensor) -> Any:
    return weight * (x * torch.sqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


@never(*NORMS)
def epsilon_outside(x: Tensor, other: Tensor, weight: Tensor) -> Any:
    return weight * (x / (x.pow(2).mean(-1, keepdim=True).sqrt() + 1e-2))


@never(*NORMS)
def epsilon_subtracted(x: Tensor, other: Tensor, weight: Tensor) -> Any:
    return weight * (x * torch.rsqrt((1e-6 - x.pow(2).mean(-1, keepdim=True)).abs()))


@never(*NORMS)
def epsilon_is_a_tensor(x: Tensor, other: Tensor, weight: Tensor) -> Any:
    return weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + other[:, :1].abs()))


@never(*NORMS)
def clamped_variance(x: Tensor, other: Tensor, weight: Tensor) -> Any:
    return weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True).clamp(min=0.9)))


@never("layer_norm", "add_layer_norm")
def unbiased_variance(x: Tensor, other: Tensor, weight: Tensor) -> Any:
    mean = x.mean(-1, keepdim=True)
    return (x - mean) / torch.sqrt(x.var(-1, keepdim=True) + 1e-5) * weight


@never("layer_norm", "add_layer_norm")
def epsilon_on_the_deviation(x: Tensor, other: Tensor, weight: Tensor) -> Any:
    mean = x.mean(-1, keepdim=True)
    return (x - mean) / (x.std(-1, keepdim=True, unbiased=False) + 1e-2) * weight


@never("layer_norm", "add_layer_norm")
def centred_by_another_mean(x: Tensor, other: Tensor, weight: Tensor) -> Any:
    mean = other.mean(-1, keepdim=True)
    return (x - mean) * torch.rsqrt(x.var(-1, keepdim=True, unbiased=False) + 1e-5) * weight


@never("layer_norm", "add_layer_norm")
def uncentred_product(x: Tensor, other: Tensor, weight: Tensor) -> Any:
    return x * torch.rsqrt(x.var(-1, keepdim=True, unbiased=False) + 1e-5) * weight


@never("layer_norm", "add_layer_norm")
def normalised_over_two_dimensions(x: Tensor, other: Tensor, weight: Tensor) -> Any:
    return F.layer_norm(x, x.shape)


@never("layer_norm", "add_layer_norm")
def group_norm(x: Tensor, other: Tensor, weight: Tensor) -> Any:
    return F.group_norm(x, 4, weight)


@never("add_rms_norm")
def residual_is_scaled(x: Tensor, other: Tensor, weight: Tensor) -> Any:
    total = torch.add(x, other, alpha=2)
    return weight * (total * torch.rsqrt(total.pow(2).mean(-1, keepdim=True) + 1e-6)), total


@never("add_rms_norm")
def difference(x: Tensor, other: Tensor, weight: Tensor) -> Any:
    total = x - other
    return weight * (total * torch.rsqrt(total.pow(2).mean(-1, keepdim=True) + 1e-6)), total


# --- gates ----------------------------------------------------------------------------------------


@never("silu_mul")
def sigmoid_of_the_other(x: Tensor, other: Tensor, weight: Tensor) -> Any:
    return x * torch.sigmoid(other)


@never("silu_mul")
def three_different_factors(x: Tensor, other: Tensor, weight: Tensor) -> Any:
    return x * torch.sigmoid(other) * weight


@never("silu_mul")
def activation_plus_up(x: Tensor, other: Tensor, weight: Tensor) -> Any:
    return F.silu(x) + other


@never("silu_mul")
def hard_and_other_activations(x: Tensor, other: Tensor, weight: Tensor) -> Any:
    return F.hardswish(x) * other, F.mish(x) * other, F.relu(x) * other, F.glu(x) * other[:, :32]


@never("gelu_mul")
def quick_gelu(x: Tensor, other: Tensor, weight: Tensor) -> Any:
    return x * torch.sigmoid(1.702 * x) + other


@never("gelu_mul")
def tanh_gelu_with_another_constant(x: Tensor, other: Tensor, weight: Tensor) -> Any:
    inner = 0.7978845608028654 * (x + 0.035677 * torch.pow(x, 3.0))
    return 0.5 * x * (1.0 + torch.tanh(inner)) * other


@never("gelu_mul")
def tanh_gelu_with_a_rounded_constant(x: Tensor, other: Tensor, weight: Tensor) -> Any:
    """0.0447 for 0.044715: another function, by more than float32 rounds."""
    inner = 0.7978845608028654 * (x + 0.0447 * torch.pow(x, 3.0))
    return 0.5 * x * (1.0 + torch.tanh(inner)) * other


# --- rotary: the last dimension in two halves of 32 -----------------------------------------------


@never("rotary")
def sign_is_wrong(x: Tensor, other: Tensor, weight: Tensor) -> Any:
    return x * other.cos() + torch.cat((x[:, 32:], x[:, :32]), -1) * other.sin()


@never("rotary")
def halves_overlap(x: Tensor, other: Tensor, weight: Tensor) -> Any:
    return x * other.cos() + torch.cat((-x[:, 24:56], x[:, :32]), -1) * other.sin()


@never("rotary")
def halves_are_unequal(x: Tensor, other: Tensor, weight: Tensor) -> Any:
    return x * other.cos() + torch.cat((-x[:, 24:], x[:, :24]), -1) * other.sin()


@never("rotary")
def halves_turned_the_other_way_and_back(x: Tensor, other: Tensor, weight: Tensor) -> Any:
    """The second difference is turned around: no rotation."""
    first, second = x[:, :32], x[:, 32:]
    cos, sin = other.cos()[:, :32], other.sin()[:, :32]
    return torch.cat((second * sin - first * cos, second * cos + first * sin), -1)


@never("rotary")
def both_halves_negated(x: Tensor, other: Tensor, weight: Tensor) -> Any:
    return x * other.cos() + torch.cat((-x[:, 32:], -x[:, :32]), -1) * other.sin()


@never("rotary")
def halves_of_another_tensor(x: Tensor, other: Tensor, weight: Tensor) -> Any:
    return x * other.cos() + torch.cat((-other[:, 32:], x[:, :32]), -1) * other.sin()


@never("rotary")
def joined_along_the_rows(x: Tensor, other: Tensor, weight: Tensor) -> Any:
    return x * other.cos() + torch.cat((-x[32:], x[:32]), 0) * other.sin()


@never("rotary")
def stacked_in_the_wrong_order(x: Tensor, other: Tensor, weight: Tensor) -> Any:
    turned = torch.stack((x[:, ::2], -x[:, 1::2]), -1).flatten(-2)
    return x * other.cos() + turned * other.sin()


# --- softmax --------------------------------------------------------------------------------------


@never("softmax")
def over_rows(x: Tensor, other: Tensor, weight: Tensor) -> Any:
    return F.softmax(x, dim=0)


@never("softmax")
def logarithmic(x: Tensor, other: Tensor, weight: Tensor) -> Any:
    return F.log_softmax(x, dim=-1), F.softmin(x, dim=-1)


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, other = (torch.randn(64, 64, generator=generator) for _ in range(2))
    return x, other, torch.rand(64, generator=generator) + 0.5


@pytest.mark.parametrize(
    ("program", "fusions"), PROGRAMS, ids=[program.__name__ for program, _ in PROGRAMS]
)
def test_is_not_taken_for_it(program: Program, fusions: tuple[str, ...]) -> None:
    counts = assert_like_eager(program, *inputs()).counts
    assert not counts.keys() & set(fusions), counts
