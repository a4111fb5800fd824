"""What one kernel launch needs, and the error for what a kernel cannot do.

`plan(arguments, outputs, arch)` of a kernel file returns a `Launch`, or None when there is nothing
to compute (an empty output), or raises `KernelLimit`. It looks at shapes, strides and dtypes only,
so it works alike for CUDA, CPU and meta tensors, and it copies no data. `outputs` has one tensor
per result of the op, or None for one that nobody reads; `arch` is "sm_90" and the like.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from tile_backend.lowering.reason import Reason, ReasonKind

MAX_GRID = (2**24 - 1, 65535, 65535)
"""Blocks per axis: cuTile's limit on x (also its own on y and z), CUDA's on y and z."""

MOST_INT32 = 2**31 - 1
"""Elements that a tensor may span so that sizes, strides and offsets all fit an int32."""

FLOATS = (torch.bfloat16, torch.float16, torch.float32)


@dataclasses.dataclass(frozen=True)
class Launch:
    """`ct.launch(stream, grid, kernel, args)`. `kernel` is a `cuda.tile.kernel`."""

    kernel: Any
    grid: tuple[int, int, int]
    args: tuple[Any, ...]


Sample = tuple[str, Mapping[str, Any], tuple[torch.Tensor | None, ...]]
"""A name, op arguments and outputs, all meta tensors: one row of the compile matrix."""


class KernelLimit(Exception):
    """The kernel does not cover these arguments; `reason` says which one and why."""

    def __init__(self, kind: ReasonKind, text: str, fix: str = "") -> None:
        self.reason = Reason(kind, text, fix=fix)
        super().__init__(str(self.reason))


def require_float(**tensors: torch.Tensor | None) -> None:
    """Every given tensor is float32, bfloat16 or float16."""
    for name, tensor in tensors.items():
        if tensor is not None and tensor.dtype not in FLOATS:
            raise KernelLimit(
                ReasonKind.DTYPE_LIMIT,
                f"`{name}` is {tensor.dtype}; the kernels take float32, bfloat16 and float16",
            )


def require_same_dtype(**tensors: torch.Tensor) -> None:
    """All given tensors have one dtype."""
    (first, tensor), *others = tensors.items()
    for name, other in others:
        if other.dtype != tensor.dtype:
            raise KernelLimit(
                ReasonKind.DTYPE_LIMIT,
                f"`{name}` is {other.dtype} but `{first}` is {tensor.dtype}",
                f"cast `{name}` to `{first}`'s dtype",
            )


def require_same_shape(**tensors: torch.Tensor) -> None:
    """All given tensors have one shape."""
    (first, tensor), *others = tensors.items()
    for name, other in others:
        if other.shape != tensor.shape:
            raise KernelLimit(
                ReasonKind.SHAPE_LIMIT,
                f"`{name}` is {list(other.shape)} but `{first}` is {list(tensor.shape)}",
            )


def require_features(x: torch.Tensor, name: str = "x") -> None:
    """`x` has at least one dimension."""
    if x.dim() == 0:
        raise KernelLimit(ReasonKind.SHAPE_LIMIT, f"`{name}` is a scalar; rows need a dimension")


def span(tensor: torch.Tensor) -> int:
    """Elements from the first of the tensor to its last, both counted."""
    return 1 + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))


def choose(name: str, value: str, known: Mapping[str, int]) -> int:
    """The kernel constant of a string attribute."""
    if value not in known:
        raise KernelLimit(
            ReasonKind.SEMANTICS_UNSUPPORTED,
            f"`{name}={value!r}` has no kernel; known are {', '.join(map(repr, known))}",
        )
    return known[value]


def is_empty(outputs: Iterable[torch.Tensor | None]) -> bool:
    """No output has an element: there is nothing to launch (a grid of 0 blocks is undefined)."""
    return all(out is None or out.numel() == 0 for out in outputs)


def launch(kernel: Any, grid: tuple[int, int, int], args: tuple[Any, ...]) -> Launch:
    """A `Launch` within the limits of the launcher; of the wide kernel where int32 is too narrow.

    kernel: of `compiled.kernel`.
    """
    for axis, blocks, most in zip("xyz", grid, MAX_GRID, strict=True):
        if not 1 <= blocks <= most:
            raise KernelLimit(
                ReasonKind.SHAPE_LIMIT,
                f"{blocks} blocks on grid axis {axis}; a launch takes 1 to {most}",
            )
    large = any(isinstance(arg, torch.Tensor) and span(arg) > MOST_INT32 for arg in args)
    return Launch(kernel.wide if large else kernel, grid, args)
