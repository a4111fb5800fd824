"""Unusual shapes, strides, dtypes and operands: rewritten correctly, or left alone as is said here.

No program may fail to compile, and each equals eager.

Longer than 300 lines because sizes, strides and dynamic shapes share their programs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tests.models.check import assert_like_eager

Tensor = torch.Tensor


def norm(x: Tensor, weight: Tensor) -> Tensor:
    wide = x.float()
    unit = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)
    return weight * unit.to(x.dtype)


def residual_norm(x: Tensor, residual: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    total = x + residual
    return norm(total, weight), total


def layer_norm(x: Tensor, weight: Tensor) -> Tensor:
    return F.layer_norm(x, (x.shape[-1],), weight, None, 1e-5)


def gate(x: Tensor, up: Tensor) -> Tensor:
    return F.silu(x) * up


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    return x * cos + torch.cat((-x[..., half:], x[..., :half]), -1) * sin


def randn(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape) + len(shape))
    return torch.randn(shape, generator=generator).to(dtype)


def fused(*args: Any, **kwargs: Any) -> int:
    return sum(assert_like_eager(*args, **kwargs).counts.values())


NORM, GATE, SUM = {"rms_norm": 1}, {"silu_mul": 1}, {"add_rms_norm": 1}
LAYER_NORM = {"layer_norm": 1}


# --- sizes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("program", (norm, layer_norm))
@pytest.mark.parametrize(
    "shape", ((0, 64), (2, 0, 64), (1, 64), (64,), (1, 1, 1, 64), (3, 1), (2, 3, 5, 7))
)
def test_norms_of_odd_sizes(program: Callable[..., Any], shape: tuple[int, ...]) -> None:
    found = NORM if program is norm else LAYER_NORM
    assert_like_eager(program, randn(*shape), randn(shape[-1]), found=found)


@pytest.mark.parametrize("shape", ((0, 8), (1,), (), (2, 0), (5, 7)))
def test_gates_of_odd_sizes(shape: tuple[int, ...]) -> None:
    """A gate has features, so it has a dimension."""
    assert_like_eager(gate, randn(*shape), randn(*shape) + 1, found=GATE if shape else {})


@pytest.mark.parametrize("rows", (0, 1, 5))
def test_rotary_of_few_rows(rows: int) -> None:
    table = randn(rows, 16)
    x = randn(2, 4, rows, 16)
    assert_like_eager(rotate, x, table.cos(), table.sin(), found={"rotary": 1})


@pytest.mark.parametrize(("batch", "keys"), ((0, 4), (2, 0), (1, 1)))
def test_attention_of_few_keys(batch: int, keys: int) -> None:
    q, k, v = randn(batch, 2, 3, 8), randn(batch, 2, keys, 8), randn(batch, 2, keys, 8)
    assert_like_eager(F.scaled_dot_product_attention, q, k, v, found={"attention": 1})


@pytest.mark.parametrize("sizes", ((4, 1, 7), (1, 4, 2), (1, 1, 3)))
def test_dynamic_sizes_and_then_others(sizes: tuple[int, ...]) -> None:
    """One callable for several batch sizes, 1 among them, which Dynamo always specialises."""
    torch._dynamo.reset()
    weight = randn(64)
    compiled = torch.compile(
        norm, backend="tilegym", dynamic=True, options={"tilegym.kernels": "always"}
    )
    for size in sizes:
        x = randn(size, 3, 64)
        torch.testing.assert_close(compiled(x, weight), norm(x, weight))


@pytest.mark.parametrize("rows", (1, 2, 9))
def test_dynamic_residual_and_gate(rows: int) -> None:
    x, other = randn(rows, 64), randn(rows, 64) + 1
    assert fused(residual_norm, x, other, randn(64), dynamic=True) == 1
    assert fused(gate, x, other, dynamic=True) == 1


# --- strides --------------------------------------------------------------------------------------

LAYOUTS: dict[str, Callable[[], Tensor]] = {
    "transposed": lambda: randn(64, 6).t(),
    "a slice of columns": lambda: randn(6, 128)[:, 32:96],
    "every second column": lambda: randn(6, 128)[:, ::2],
    "every second row": lambda: randn(12, 64)[::2],
    "one row expanded": lambda: randn(1, 64).expand(6, 64),
    "one column expanded": lambda: randn(6, 1).expand(6, 64),
    "one number expanded": lambda: randn(1, 1).expand(6, 64),
    "flipped by a stride": lambda: randn(6, 64).flip(0),
    "heads first": lambda: randn(2, 3, 4, 64).transpose(1, 2),
    "channels last": lambda: randn(2, 64, 3, 64).contiguous(memory_format=torch.channels_last),
    "overlapping windows": lambda: randn(200).as_strided((6, 64), (8, 1)),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_norms_of_any_layout(layout: str) -> None:
    x = LAYOUTS[layout]()
    assert_like_eager(norm, x, randn(64), found=NORM)
    assert_like_eager(layer_norm, x, randn(64), found=LAYER_NORM)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_gates_and_residuals_of_any_layout(layout: str) -> None:
    x = LAYOUTS[layout]()
    assert_like_eager(gate, x, x.flip(-1), found=GATE)
    assert_like_eager(residual_norm, x, torch.ones_like(x), randn(64), found=SUM)


def test_the_layout_of_the_result_is_that_of_eager() -> None:
    def strides(x: Tensor, weight: Tensor) -> Tensor:
        return norm(x, weight).as_strided((6, 64), (64, 1))

    assert_like_eager(strides, randn(64, 6).t(), randn(64), found=NORM)


# --- operands of other shapes ---------------------------------------------------------------------

WEIGHTS = ((), (1,), (64,), (1, 64), (6, 1), (6, 64), (3, 1, 1))


@pytest.mark.parametrize("shape", WEIGHTS, ids=str)
def test_weights_of_any_shape(shape: tuple[int, ...]) -> None:
    """Whatever is no vector of the features is multiplied outside of the norm."""
    report = assert_like_eager(norm, randn(6, 64), randn(*shape) + 2, found=NORM)
    (site,) = report.fused
    assert site.call is not None
    assert (site.call.arguments.get("weight") is not None) is (shape == (64,))


@pytest.mark.parametrize("shape", ((64,), (1, 64), (6, 1), (), (3, 6, 64)), ids=str)
def test_a_residual_that_broadcasts(shape: tuple[int, ...]) -> None:
    """The sum is not of the norm's shape everywhere: it stays outside."""
    assert_like_eager(residual_norm, randn(6, 64), randn(*shape), randn(64), found=NORM)


@pytest.mark.parametrize("shape", ((64,), (6, 1), (), (2, 6, 64)), ids=str)
def test_an_up_that_broadcasts(shape: tuple[int, ...]) -> None:
    assert_like_eager(gate, randn(6, 64), randn(*shape) + 1, found={})
    assert_like_eager(gate, randn(*shape), randn(6, 64), found={})


def test_gate_and_up_are_one_tensor() -> None:
    assert_like_eager(lambda x: F.silu(x) * x, randn(6, 64), found=GATE)


def test_a_norm_of_a_norm_with_one_weight() -> None:
    assert fused(lambda x, w: norm(norm(x, w), w), randn(6, 64), randn(64)) == 2


def test_the_same_norm_twice_is_right() -> None:
    """One value: it is computed once."""
    inputs = randn(6, 64), randn(64)
    assert_like_eager(lambda x, w: (norm(x, w), norm(x, w)), *inputs, found=NORM)


def test_factors_in_any_order() -> None:
    def scale(x: Tensor) -> Tensor:
        return torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)

    for program in (
        lambda x, w: w * (x * scale(x)),
        lambda x, w: x * scale(x) * w,
        lambda x, w: w * (scale(x) * x),
        lambda x, w: scale(x) * x * w,
    ):
        assert_like_eager(program, randn(6, 64), randn(64), found=NORM)


@pytest.mark.parametrize("epsilon", (1e-12, 1, 1e-6))
def test_any_epsilon(epsilon: float) -> None:
    def program(x: Tensor, w: Tensor) -> Tensor:
        return w * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + epsilon))

    assert fused(program, randn(6, 64), randn(64)) == 1


def test_no_epsilon_is_right() -> None:
    assert_like_eager(
        lambda x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 0.0), randn(6, 64), found={}
    )


@pytest.mark.parametrize("epsilon", (None, 1e-3))
def test_functional_rms_norm(epsilon: float | None) -> None:
    """Epsilon None means the machine epsilon of the dtype that eager computes in."""

    def program(x: Tensor, w: Tensor) -> Tensor:
        return F.rms_norm(x * 1e-4, (64,), w, epsilon)

    def exact(x: Tensor, w: Tensor) -> Tensor:
        """Float64 would have an epsilon of its own."""
        known = torch.finfo(torch.float32).eps if epsilon is None else epsilon
        return F.rms_norm(x * 1e-4, (64,), w, known)

    for dtype in (torch.float32, torch.bfloat16):
        inputs = randn(6, 64, dtype=dtype), randn(64, dtype=dtype)
        assert_like_eager(program, *inputs, oracle_of=exact, found=NORM)


def test_an_epsilon_that_is_a_parameter() -> None:
    def program(x: Tensor, w: Tensor, epsilon: Tensor) -> Tensor:
        return w * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + epsilon))

    epsilon = torch.tensor(0.1, requires_grad=True)
    assert_like_eager(program, randn(6, 64), randn(64), epsilon, found={})


def test_an_epsilon_that_changes_is_not_baked_in() -> None:
    torch._dynamo.reset()

    def program(x: Tensor, epsilon: float) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + epsilon)

    compiled = torch.compile(
        program, backend="tilegym", dynamic=True, options={"tilegym.kernels": "always"}
    )
    for epsilon in (1e-6, 0.5, 2.0):
        x = randn(4, 64)
        torch.testing.assert_close(compiled(x, epsilon), program(x, epsilon))


# --- dtypes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("x", (torch.float16, torch.bfloat16, torch.float32, torch.float64))
@pytest.mark.parametrize("weight", (torch.float16, torch.bfloat16, torch.float32, torch.float64))
def test_norms_of_mixed_dtypes(x: torch.dtype, weight: torch.dtype) -> None:
    """In float64 a norm is found as well: its operands are what they are."""
    assert_like_eager(norm, randn(6, 64, dtype=x), randn(64, dtype=weight), found=NORM)


@pytest.mark.parametrize("x", (torch.float16, torch.bfloat16, torch.float32))
@pytest.mark.parametrize("other", (torch.float16, torch.bfloat16, torch.float32))
def test_gates_and_residuals_of_mixed_dtypes(x: torch.dtype, other: torch.dtype) -> None:
    one, two = randn(6, 64, dtype=x), randn(6, 64, dtype=other) + 1
    report = assert_like_eager(gate, one, two)
    assert report.counts in ({}, GATE)
    assert report.counts == GATE or x is not other
    assert_like_eager(residual_norm, one, two, randn(64), found=SUM)


@pytest.mark.parametrize("other", (torch.bfloat16, torch.float16), ids=str)
def test_low_precisions_that_are_cast(other: torch.dtype) -> None:
    def program(x: Tensor, up: Tensor) -> Tensor:
        return (F.silu(x.float()) * up.float()).to(x.dtype)

    inputs = randn(6, 64, dtype=torch.bfloat16), randn(6, 64, dtype=other) + 1
    assert_like_eager(program, *inputs, found=GATE)


@pytest.mark.parametrize("dtype", (torch.int32, torch.int64, torch.uint8, torch.bool))
def test_integers(dtype: torch.dtype) -> None:
    x = torch.arange(6 * 64).reshape(6, 64).remainder(5).to(dtype)
    """What is computed in float32 of a cast of them is a fusion like any other."""
    assert_like_eager(lambda x, w: norm(x, w) + w, x, randn(64), found=NORM)
    assert_like_eager(lambda x, up: x * torch.sigmoid(x) * up, x, randn(6, 64), found=GATE)
    assert_like_eager(lambda x: F.softmax(x.float(), dim=-1), x, found={"softmax": 1})


@pytest.mark.parametrize("dtype", (torch.int64, torch.bool))
def test_a_float_gate_and_an_integer_up(dtype: torch.dtype) -> None:
    up = torch.arange(6 * 64).reshape(6, 64).remainder(3).to(dtype)
    assert_like_eager(gate, randn(6, 64), up, found=GATE)


@pytest.mark.parametrize("special", (float("inf"), float("nan"), 1e15, 1e-30, 0.0))
def test_special_values(special: float) -> None:
    x = randn(6, 64)
    x[1, 3] = special
    x[2] = special
    assert_like_eager(norm, x, randn(64), found=NORM)
    assert_like_eager(layer_norm, x, randn(64), found=LAYER_NORM)
    assert_like_eager(gate, x, randn(6, 64), found=GATE)


@pytest.mark.parametrize("size", (1e4, 3e38))
def test_low_precision_does_not_overflow_earlier(size: float) -> None:
    dtype = torch.bfloat16 if size > 1e5 else torch.float16
    x, weight = (randn(6, 64) * size / 8).to(dtype), randn(64, dtype=dtype)
    assert_like_eager(norm, x, weight, found=NORM)
