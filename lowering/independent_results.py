"""Which results of an op depend on no argument that needs a gradient.

In the model these have none: the sum of x and residual, where only the weight of the norm is
trained. Asked of the reference, on meta tensors; of one set of sizes, since sizes do not matter.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import torch
from torch.autograd.graph import saved_tensors_hooks

from tile_backend.lowering import reference
from tile_backend.lowering.fusion import Op
from tile_backend.lowering.meta import without_modes
from tile_backend.lowering.node import hint


def of(op: Op, arguments: Mapping[str, Any], needs: Mapping[str, bool]) -> tuple[int, ...]:
    """By number. needs: by argument, whether it needs a gradient."""
    return _of(op, tuple((name, example(v), needs[name]) for name, v in arguments.items()))


def example(value: Any) -> Any:
    """Of a tensor its dtype and a size of each dimension."""
    if not isinstance(value, torch.Tensor):
        return value
    return value.dtype, tuple(map(hint, value.shape))


@functools.cache
def _of(op: Op, given: tuple[tuple[str, Any, bool], ...]) -> tuple[int, ...]:
    """Once: what autograd keeps here is none of a checkpoint's business, which counts it."""
    with without_modes(), torch.enable_grad(), saved_tensors_hooks(itself, itself):
        results = reference.run(op, {name: leaf(value, need) for name, value, need in given})
    return tuple(i for i, result in enumerate(results) if not result.requires_grad)


def itself(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


def leaf(value: Any, needs: bool) -> Any:
    """A meta tensor for an example."""
    if not isinstance(value, tuple):
        return value
    return torch.empty(value[1], dtype=value[0], device="meta", requires_grad=needs)
