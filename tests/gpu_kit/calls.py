"""Every call of an op that the check makes on a GPU, so that its kernels can be compiled before.

Calls are made on the CPU and placed on the GPU with their strides; a call is known by its title.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from tests.kernel_cases import CLASSES, DTYPES, HEAD_WIDTHS, OPS, arguments_of, heads
from tests.op_samples import CASES, arguments
from tile_backend.lowering.custom_op import record

BF16 = torch.bfloat16
WIDE_ROWS = 2**20 + 3
"""Rows of 2048 elements: more of these than an int32 counts."""


@dataclasses.dataclass(frozen=True)
class Call:
    """`make()` gives all arguments of the op in schema order, on the CPU; equal at each call.

    dtype: of its data, for a table.
    """

    op: str
    title: str
    dtype: torch.dtype
    make: Callable[[], dict[str, Any]]

    def __str__(self) -> str:
        return f"{self.op} {self.title} {str(self.dtype).removeprefix('torch.')}"


def parity_calls() -> Iterator[Call]:
    """Classes of shapes and values, head widths, every mode and optional operand; each dtype."""
    for op, name, dtype in itertools.product(OPS, CLASSES, DTYPES):
        yield Call(op, name, dtype, functools.partial(arguments_of, op, name, dtype))
    for op, width, dtype in itertools.product(("attention", "rotary_qk"), HEAD_WIDTHS, DTYPES):
        if op == "attention" and dtype is torch.float32 and width > 128:
            continue  # there is no kernel, which a test of the plan holds
        yield Call(op, f"heads of {width}", dtype, functools.partial(head_width, op, width, dtype))
    for (number, case), dtype in itertools.product(enumerate(CASES), DTYPES):
        mode = str(case).removeprefix(f"{case.op}-")
        yield Call(
            case.op, f"mode {number} {mode}", dtype, functools.partial(arguments, case, dtype)
        )


def head_width(op: str, width: int, dtype: torch.dtype) -> dict[str, Any]:
    """70 positions of 4 heads, keys and values of 2."""
    given = {"is_causal": True} if op == "attention" else {}
    return record(op).signature.bind((), heads(op, (4, 70, width), (2, 70), dtype, **given))


def sanitized_calls() -> Iterator[Call]:
    """A few of them: what a checker of memory, hundreds of times slower, gets to see."""
    for op, name in itertools.product(OPS, ("ragged", "long_rows", "slices")):
        yield Call(op, name, BF16, functools.partial(arguments_of, op, name, BF16))


NORMS: Mapping[str, tuple[tuple[int, ...], int]] = {
    "on a stream": ((256, 4096), 0),
    "on a device": ((16, 1024), 0),
    "in a warm graph": ((4, 8, 1024), 0),
    "in a cold graph": ((4, 8, 1536), 0),
    "misaligned": ((16, 1024), 1),
    "wide": ((WIDE_ROWS, 2048), 0),
    "from a store": ((16, 1280), 0),
}
"""The norms that tests/test_launch_gpu.py launches: shape, and elements before the first one."""


def norm_input(name: str, device: str) -> torch.Tensor:
    """Random bfloat16 numbers; on the meta device only the layout."""
    shape, offset = NORMS[name]
    whole = torch.empty(offset + math.prod(shape), dtype=BF16, device=device)
    return whole.normal_()[offset:].view(shape)


def norm_values(name: str, device: str = "meta") -> dict[str, Any]:
    """All arguments of the op."""
    given = {"x": norm_input(name, device), "weight": None, "eps": 1e-6}
    return record("rms_norm").signature.bind((), given)
