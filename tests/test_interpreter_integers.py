"""Integers in the interpreter: every function and type, exact, with wrap-around and its limits."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import cuda.tile as ct
import pytest
import torch

from tests.interpreter_elements import INTEGERS, integers, numbers, run, tensor, wrapped
from tile_backend.lowering.interpreter.faults import FaultKind, KernelFault


def shift_left(x: Any, y: Any) -> Any:
    return ct.bitwise_lshift(x, y)


def shift_right(x: Any, y: Any) -> Any:
    return ct.bitwise_rshift(x, y)


FUNCTIONS: dict[str, tuple[Callable[..., Any], Callable[[int, int], int]]] = {
    "add": (operator.add, operator.add),
    "sub": (operator.sub, operator.sub),
    "mul": (operator.mul, operator.mul),
    "floordiv": (operator.floordiv, operator.floordiv),
    "mod": (operator.mod, operator.mod),
    "cdiv": (ct.cdiv, lambda x, y: -(-x // y)),
    "minimum": (ct.minimum, min),
    "maximum": (ct.maximum, max),
    "and": (operator.and_, operator.and_),
    "or": (operator.or_, operator.or_),
    "xor": (operator.xor, operator.xor),
}


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_integers_are_exact_and_wrap_around(name: str, dtype: torch.dtype) -> None:
    ours, python = FUNCTIONS[name]
    x, y = integers(dtype)
    expected = [wrapped(python(a, b), dtype) for a, b in zip(x, y, strict=True)]
    assert numbers(run(ours, tensor(x, dtype), tensor(y, dtype))) == expected


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_integers_are_shifted_and_compared(dtype: torch.dtype) -> None:
    x, y = integers(dtype)
    bits = [0, 1, 2, 3, 1, 4, 5, 6]
    pairs = list(zip(x, bits, strict=True))
    left = run(shift_left, tensor(x, dtype), tensor(bits, dtype))
    right = run(shift_right, tensor(x, dtype), tensor(bits, dtype))
    assert numbers(left) == [wrapped(a << b, dtype) for a, b in pairs]
    assert numbers(right) == [a >> b for a, b in pairs]
    for fn in (operator.lt, operator.le, operator.gt, operator.ge, operator.eq, operator.ne):
        found = run(fn, tensor(x, dtype), tensor(y, dtype), dtype=torch.bool)
        assert found.tolist() == [fn(a, b) for a, b in zip(x, y, strict=True)]


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_integers_alone(dtype: torch.dtype) -> None:
    x, _ = integers(dtype)
    for ours, python in (
        (ct.negative, operator.neg),
        (ct.abs, abs),
        (ct.bitwise_not, operator.invert),
    ):
        expected = [wrapped(python(a), dtype) for a in x]
        assert numbers(run(ours, tensor(x, dtype))) == expected


def test_the_lowest_integer_over_minus_one_wraps() -> None:
    x = torch.tensor([-(2**31), 6, -(2**31), 5], dtype=torch.int32)
    y = torch.tensor([-1, -1, 1, 2], dtype=torch.int32)
    assert run(operator.floordiv, x, y).tolist() == [-(2**31), -6, -(2**31), 2]
    assert run(operator.mod, x, y).tolist() == [0, 0, 0, 1]


@pytest.mark.parametrize("fn", (operator.floordiv, operator.mod, ct.cdiv))
def test_division_by_zero_is_undetermined(fn: Callable[..., Any]) -> None:
    x = torch.tensor([4, 3], dtype=torch.int32)
    y = torch.tensor([2, 0], dtype=torch.int32)
    with pytest.raises(KernelFault, match=r"the division by zero at interpreter_kernels\.py") as e:
        run(fn, x, y)
    assert e.value.kind is FaultKind.UNDETERMINED


def test_a_shift_by_the_width_is_undetermined() -> None:
    x = torch.tensor([4, 3], dtype=torch.int32)
    with pytest.raises(KernelFault, match="the shift by its width or more at"):
        run(shift_left, x, torch.tensor([2, 32], dtype=torch.int32))
