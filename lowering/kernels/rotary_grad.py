"""The gradient of a rotary embedding: `rotary`'s kernel, turning back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from tile_backend.lowering.kernels import rotary
from tile_backend.lowering.kernels.configuration import Choose, as_planned
from tile_backend.lowering.kernels.launch_plan import Launch, Sample


def plan(
    arguments: Mapping[str, Any],
    outputs: tuple[torch.Tensor | None, ...],
    arch: str,
    choose: Choose = as_planned,
) -> Launch | None:
    """See launch_plan. dout [..., D] of rank 1 to 4 and any strides; outputs: (like dout,)."""
    return rotary.plan_turn({**arguments, "rounding": "once"}, outputs, choose, back=True)


def samples() -> list[Sample]:
    """Some of rotary's, from result to argument: every layout, and part of the features."""
    samples: list[Sample] = []
    for name, given, outputs in rotary.samples():
        if name not in ("half", "interleaved", "deinterleave", "partial"):
            continue
        fixed = {n: v for n, v in given.items() if n not in ("x", "rounding")}
        arguments = {"dout": outputs[0], **fixed, "dtype": given["x"].dtype}
        samples.append((name, arguments, (torch.empty_like(given["x"]),)))
    return samples
