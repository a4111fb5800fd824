"""`attention_with_lse`: the kernel of `attention`, which also stores its log-sum-exp."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from tile_backend.lowering.kernels import launch_plan
from tile_backend.lowering.kernels.attention import forward
from tile_backend.lowering.kernels.attention_plan import attention_inputs
from tile_backend.lowering.kernels.attention_samples import sample
from tile_backend.lowering.kernels.configuration import Choose, as_planned
from tile_backend.lowering.kernels.launch_plan import KernelLimit, Launch, Sample
from tile_backend.lowering.reason import ReasonKind


def plan(
    arguments: Mapping[str, Any],
    outputs: tuple[torch.Tensor | None, ...],
    arch: str,
    choose: Choose = as_planned,
) -> Launch | None:
    """See launch_plan. As `attention`; outputs: [B, H, S, E], and float32 [B, H, S], or with a mask
    that is added [2, B, H, S].
    """
    out, lse = outputs
    if launch_plan.is_empty(outputs):
        return None
    if out is None:
        raise KernelLimit(ReasonKind.SEMANTICS_UNSUPPORTED, "a log-sum-exp without the result")
    return forward(attention_inputs(arguments, out, lse), arch, choose)


def with_lse(made: Sample) -> Sample:
    """A sample of `attention` as one of this op."""
    name, arguments, (out,) = made
    assert out is not None
    mask = arguments["mask"]
    parts = (2,) if mask is not None and mask.dtype.is_floating_point else ()
    lse = torch.empty(*parts, *out.shape[:3], dtype=torch.float32, device="meta")
    return name, arguments, (out, lse)


def samples() -> list[Sample]:
    """What training needs: causal, windows, packed documents, a mask that is added."""
    ids = torch.empty(2, 512, dtype=torch.int64, device="meta")
    mask = torch.empty(2, 1, 512, 512, dtype=torch.bfloat16, device="meta")
    return [
        with_lse(sample("causal", (8, 512, 128), (2, 512, 128), is_causal=True)),
        with_lse(sample("window", (8, 512, 64), (2, 512, 64), is_causal=True, window=128)),
        with_lse(sample("segments", (8, 512, 128), (2, 512, 128), segments=ids, is_causal=True)),
        with_lse(sample("added", (8, 512, 128), (2, 512, 128), mask=mask)),
    ]
