"""The gradients of q and k of a rotary embedding: `rotary_qk`'s kernel, turning back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from tile_backend.lowering.kernels import rotary_qk
from tile_backend.lowering.kernels.configuration import Choose, as_planned
from tile_backend.lowering.kernels.launch_plan import Launch, Sample


def plan(
    arguments: Mapping[str, Any],
    outputs: tuple[torch.Tensor | None, ...],
    arch: str,
    choose: Choose = as_planned,
) -> Launch | None:
    """See launch_plan. dq and dk [..., D] of rank 1 to 4, any strides; outputs: like them."""
    return rotary_qk.plan_turn({**arguments, "rounding": "once"}, outputs, choose, back=True)


def samples() -> list[Sample]:
    """Some of rotary_qk's, from results to arguments."""
    samples: list[Sample] = []
    for name, given, outputs in rotary_qk.samples():
        if name not in ("half", "half_split", "heads_last"):
            continue
        fixed = {n: v for n, v in given.items() if n not in ("q", "k", "rounding")}
        douts = dict(zip(("dq", "dk"), outputs, strict=True))
        arguments = {**douts, **fixed, "dtype": given["q"].dtype}
        results = tuple(torch.empty_like(given[n]) for n in ("q", "k"))
        samples.append((name, arguments, results))
    return samples
