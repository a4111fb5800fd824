"""`silu_mul_grad` with both gradients in the halves of one tensor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from tile_backend.lowering.kernels import silu_mul_grad
from tile_backend.lowering.kernels.configuration import Choose, as_planned
from tile_backend.lowering.kernels.gated_grad import halves, packed_samples
from tile_backend.lowering.kernels.launch_plan import Launch, Sample


def plan(
    arguments: Mapping[str, Any],
    outputs: tuple[torch.Tensor | None, ...],
    arch: str,
    choose: Choose = as_planned,
) -> Launch | None:
    """See launch_plan. dout, gate and up [..., D], any strides; outputs: ([..., 2 * D],)."""
    return silu_mul_grad.plan(arguments, halves(outputs, arguments), arch, choose)


def samples() -> list[Sample]:
    """The halves of one projection."""
    return packed_samples({"alpha": 1.0})
