"""`attention`: softmax attention. What its kernel does is said in attention_forward."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from tile_backend.lowering.kernels import attention_samples, launch_plan
from tile_backend.lowering.kernels.attention_forward import attention
from tile_backend.lowering.kernels.attention_plan import AttentionInputs, attention_inputs
from tile_backend.lowering.kernels.attention_tiles import attention_tiles
from tile_backend.lowering.kernels.compiled import kernel
from tile_backend.lowering.kernels.configuration import Choose, as_planned
from tile_backend.lowering.kernels.launch_plan import Launch, Sample
from tile_backend.lowering.kernels.row_layout import next_power_of_two


def forward(inputs: AttentionInputs, arch: str, choose: Choose) -> Launch:
    """The launch for inputs that were checked."""
    q, k, v, mask, places = inputs.q, inputs.k, inputs.v, inputs.mask, inputs.places
    batch, heads, length, width = q.shape
    padded = next_power_of_two(width), next_power_of_two(v.shape[3])
    wide_ids = places.segments is not None and places.segments.dtype is torch.int64
    tiles = choose(attention_tiles(arch, max(padded), length, q.dtype, wide_ids))
    mask_rows = tiles.rows if mask is not None and mask.shape[2] > 1 else 1
    sinks, lse = (q if x is None else x for x in (inputs.sinks, inputs.lse))
    return launch_plan.launch(
        kernel(attention, **tiles.hints),
        (-(-length // tiles.rows), heads, batch),
        (
            *(q, k, v, q if mask is None else mask, *places.arrays(q), sinks, inputs.out, lse),
            *(*inputs.numbers, places.start, places.window, places.chunk),
            *(heads // k.shape[1], inputs.packed, tiles.rows, tiles.cols, *padded),
            *(places.rules, inputs.mask_kind, mask_rows, inputs.sinks is not None),
            *(inputs.softcap is not None, inputs.empty, inputs.may_be_empty),
            *(inputs.lse is not None, inputs.unit, tiles.latency),
        ),
    )


def plan(
    arguments: Mapping[str, Any],
    outputs: tuple[torch.Tensor | None, ...],
    arch: str,
    choose: Choose = as_planned,
) -> Launch | None:
    """See launch_plan.

    q [B, H, S, D], k [B, K, L, D] and v [B, K, L, E] of any strides; outputs: ([B, H, S, E],).
    """
    (out,) = outputs
    if out is None or launch_plan.is_empty(outputs):
        return None
    return forward(attention_inputs(arguments, out), arch, choose)


def samples() -> list[Sample]:
    """See attention_samples."""
    return attention_samples.samples()
