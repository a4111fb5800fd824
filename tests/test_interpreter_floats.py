"""Floats in the interpreter: every function and type, rounding modes, flushing, NaN."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import cuda.tile as ct
import pytest
import torch

from tests.interpreter_elements import FLOATS, run
from tile_backend.lowering.budget import rounding_step
from tile_backend.lowering.interpreter.faults import UnsupportedKernel

UNARY = "exp exp2 log log2 sqrt rsqrt sin cos tan sinh cosh tanh floor ceil negative abs".split()


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Equal, where NaN equals NaN."""
    return torch.equal(one.nan_to_num(77.0), other.nan_to_num(77.0))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("name", UNARY)
def test_floats_alone(name: str, dtype: torch.dtype) -> None:
    x = torch.tensor([0.0, 0.25, 1.0, 1.7, 3.0, math.inf, -math.inf, math.nan], dtype=dtype)
    assert same(run(getattr(ct, name), x), getattr(torch, name)(x))


def power(x: Any, y: Any) -> Any:
    return x**y


FUNCTIONS: dict[str, tuple[Callable[..., Any], Callable[..., torch.Tensor]]] = {
    "add": (operator.add, torch.add),
    "sub": (operator.sub, torch.sub),
    "mul": (operator.mul, torch.mul),
    "truediv": (operator.truediv, torch.div),
    "floordiv": (operator.floordiv, lambda x, y: torch.floor(x / y)),
    "mod": (operator.mod, torch.remainder),
    "power": (power, torch.pow),
    "atan2": (ct.atan2, torch.atan2),
    "minimum": (ct.minimum, torch.fmin),
    "maximum": (ct.maximum, torch.fmax),
}


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_pairs_of_floats(name: str, dtype: torch.dtype) -> None:
    ours, theirs = FUNCTIONS[name]
    x = torch.tensor([0.5, -1.5, 7.0, 2.0, 1e4, math.nan, -3.0, 0.1], dtype=dtype)
    y = torch.tensor([2.0, 0.5, -2.0, 3.0, 3.0, 1.0, math.nan, 0.3], dtype=dtype)
    assert same(run(ours, x, y), theirs(x, y))


def strict_minimum(x: Any, y: Any) -> Any:
    return ct.minimum(x, y, propagate_nan=True)


def larger(x: Any, y: Any) -> Any:
    return ct.where(x > y, x, y)


def to_the_third(x: Any) -> Any:
    return x**3


def product_and_sum(x: Any, y: Any) -> Any:
    return x * y + x


def test_nan_is_ignored_unless_it_propagates() -> None:
    x = torch.tensor([1.0, math.nan, 3.0, -0.0])
    y = torch.tensor([2.0, 1.0, math.nan, 5.0])
    assert run(strict_minimum, x, y).isnan().tolist() == [False, True, True, False]
    assert not run(ct.minimum, x, y).isnan().any()
    assert run(larger, x, y)[:2].tolist() == [2.0, 1.0]


def test_an_integer_power_is_rounded_once() -> None:
    x = torch.tensor([1.1, -2.0, 3.0, 0.7])
    assert torch.equal(run(to_the_third, x), x.double().pow(3).float())


def test_a_product_and_a_sum_are_rounded_once() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(64, generator=generator) for _ in range(2))
    exact = (x.double() * y.double() + x.double()).float()
    assert torch.equal(run(product_and_sum, x, y), exact)
    assert not torch.equal(exact, x * y + x), "the example distinguishes the two"


def flushing(x: Any, y: Any) -> Any:
    return ct.mul(x, y, flush_to_zero=True)


def test_flushing_takes_subnormal_operands_and_results_to_zero() -> None:
    x = torch.tensor([1e-40, -1e-40, 1e-30, 2.0])
    y = torch.tensor([1e30, 1e30, -1e-10, 3.0])
    found = run(flushing, x, y)
    assert found.tolist() == [0.0, 0.0, 0.0, 6.0]
    assert found.signbit().tolist() == [False, True, True, False]


def up(x: Any, y: Any) -> Any:
    return ct.add(x, y, rounding_mode=ct.RoundingMode.RP)


def down(x: Any, y: Any) -> Any:
    return ct.mul(x, y, rounding_mode=ct.RoundingMode.RM)


def towards_zero(x: Any, y: Any) -> Any:
    return ct.truediv(x, y, rounding_mode=ct.RoundingMode.RZ)


def root_up(x: Any) -> Any:
    return ct.sqrt(x, rounding_mode=ct.RoundingMode.RP)


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16, torch.float16), ids=str)
def test_directed_rounding_encloses_the_exact_result(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(64, generator=generator).to(dtype) for _ in range(2))
    one, other = x.double(), y.double()
    for found, exact, nearest, sign in (
        (run(up, x, y), one + other, x + y, 1.0),
        (run(down, x, y), one * other, x * y, -1.0),
        (run(root_up, x.abs()), one.abs().sqrt(), x.abs().sqrt(), 1.0),
    ):
        assert ((found.double() - exact) * sign >= 0).all()
        assert (found.double() - exact).abs().max() < rounding_step(dtype, exact.abs().max().item())
        assert (found != nearest).any()
        same_value = nearest.double() == exact
        assert torch.equal(found[same_value], nearest[same_value])
    assert (run(towards_zero, x, y).double().abs() <= (one / other).abs()).all()


def test_directed_rounding_of_float64_is_unsupported() -> None:
    x = torch.ones(2, dtype=torch.float64)
    words = r"kernel two at test_interpreter_floats\.py:\d+ .*`raw_binary_arith`: rounding mode RP"
    with pytest.raises(UnsupportedKernel, match=words) as e:
        run(up, x, x)
    assert e.value.opcode == "raw_binary_arith"
