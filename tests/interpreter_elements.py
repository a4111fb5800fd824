"""Tiles of every element type for the interpreter's tests, and functions run on them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from tests.interpreter_kernels import elementwise
from tile_backend.lowering.interpreter.launch import interpret

INTEGERS = {
    torch.int8: (-128, 127),
    torch.int16: (-(2**15), 2**15 - 1),
    torch.int32: (-(2**31), 2**31 - 1),
    torch.int64: (-(2**63), 2**63 - 1),
    torch.uint8: (0, 2**8 - 1),
    torch.uint16: (0, 2**16 - 1),
    torch.uint32: (0, 2**32 - 1),
    torch.uint64: (0, 2**64 - 1),
}
FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
SIGNED = {8: torch.int8, 16: torch.int16, 32: torch.int32, 64: torch.int64}


@functools.cache
def kernel_of(fn: Callable[..., Any], operands: int) -> Any:
    return elementwise(fn)[operands]


def run(
    fn: Callable[..., Any], *tensors: torch.Tensor, dtype: torch.dtype | None = None
) -> torch.Tensor:
    """fn on tiles; the tensors have a power of two of elements."""
    out = torch.zeros_like(tensors[0], dtype=dtype or tensors[0].dtype)
    interpret((1,), kernel_of(fn, len(tensors)), (*tensors, out, tensors[0].numel()))
    return out


def integers(dtype: torch.dtype) -> tuple[list[int], list[int]]:
    """Pairs with the extremes, zeros and signs; no division by zero and no overflowing quotient."""
    low, high = INTEGERS[dtype]
    x = [0, 1, 5, 7, high, high - 1, low + 1, high // 2]
    y = [1, 3, 2, high, 2, high, 3, high // 3]
    if low < 0:
        x[:4], y[4:6] = [-7, -1, low + 1, -5], [-2, -high]
    return x, y


def tensor(values: list[int], dtype: torch.dtype) -> torch.Tensor:
    """Also of the unsigned types that torch hardly knows."""
    wide = torch.tensor([v - 2**64 if v >= 2**63 else v for v in values], dtype=torch.int64)
    if INTEGERS[dtype][0] == 0:
        return wide.to(SIGNED[dtype.itemsize * 8]).view(dtype)
    return wide.to(dtype)


def numbers(x: torch.Tensor) -> list[int]:
    """The exact values of an integer tensor."""
    bits = x.element_size() * 8
    signed: list[int] = x.view(SIGNED[bits]).tolist()
    return [v % 2**bits if INTEGERS[x.dtype][0] == 0 else v for v in signed]


def wrapped(value: int, dtype: torch.dtype) -> int:
    """A number modulo the range of a type."""
    low, high = INTEGERS[dtype]
    return (value - low) % (high - low + 1) + low
