"""The parts of an attention as one: each weighs as its keys' share of the softmax."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import cuda.tile as ct
import torch

from tile_backend.lowering.kernels import launch_plan
from tile_backend.lowering.kernels.compiled import kernel
from tile_backend.lowering.kernels.configuration import Choose, Configuration, Values, as_planned
from tile_backend.lowering.kernels.launch_plan import KernelLimit, Launch, Sample
from tile_backend.lowering.kernels.row_layout import next_power_of_two
from tile_backend.lowering.reason import ReasonKind


@dataclasses.dataclass(frozen=True)
class JoinTile(Configuration):
    """at_once: parts per step."""

    at_once: int = 8
    warps: int | None = None
    occupancy: int | None = 8

    def space(self) -> Values:
        return {"at_once": (4, 8, 16), "warps": (None, 4, 8), "occupancy": (None, 4, 8, 16)}


WIDEST = 1024
"""Features of a head; a wider tile would live in spilled registers."""


def attention_join(
    parts: ct.Array,
    lse: ct.Array,
    sinks: ct.Array,
    out: ct.Array,
    AT_ONCE: ct.Constant[int],
    WIDTH: ct.Constant[int],
    SINKS: ct.Constant[bool],
) -> None:
    """Grid (queries, heads, batch). parts [P, B, H, S, E], lse [P, B, H, S], out [B, H, S, E].

    WIDTH: E padded to a power of two. sinks [H], or anything without SINKS.
    """
    query, head, batch = ct.bid(0), ct.bid(1), ct.bid(2)
    peak = ct.full((1, 1), -math.inf, ct.float32)
    mass = ct.zeros((1, 1), ct.float32)
    total = ct.zeros((1, WIDTH), ct.float32)
    if SINKS:  # a key of its own that has no value
        sink = ct.gather(sinks, head).astype(ct.float32).reshape((1, 1))
        peak, mass = ct.maximum(peak, sink), ct.exp(sink - at_least_finite(sink))
    for j in range(ct.cdiv(lse.shape[0], AT_ONCE)):
        logs = ct.load(
            lse,
            (j, batch, head, query),
            (AT_ONCE, 1, 1, 1),
            padding_mode=ct.PaddingMode.NEG_INF,
            allow_tma=False,
        )
        logs = logs.reshape((AT_ONCE, 1)).astype(ct.float32)
        found = ct.load(
            parts,
            (j, batch, head, query, 0),
            (AT_ONCE, 1, 1, 1, WIDTH),
            padding_mode=ct.PaddingMode.ZERO,
            allow_tma=False,
        )
        found = found.reshape((AT_ONCE, WIDTH)).astype(ct.float32)
        higher = ct.maximum(peak, ct.max(logs, axis=0, keepdims=True))
        base = at_least_finite(higher)
        weights = ct.exp(logs - base)
        decay = ct.exp(peak - base)
        mass = mass * decay + ct.sum(weights, axis=0, keepdims=True)
        total = total * decay + ct.sum(found * weights, axis=0, keepdims=True)
        peak = higher
    result = ct.where(mass == 0.0, 0.0, total / mass).astype(out.dtype)
    ct.store(out, (batch, head, query, 0), result.reshape((1, 1, 1, WIDTH)), allow_tma=False)


def at_least_finite(peak: ct.Tile) -> ct.Tile:
    """What is subtracted before exp: 0 for the maximum of nothing, since -inf - -inf is NaN."""
    return ct.where(peak == -math.inf, 0.0, peak)


def plan(
    arguments: Mapping[str, Any],
    outputs: tuple[torch.Tensor | None, ...],
    arch: str,
    choose: Choose = as_planned,
) -> Launch | None:
    """See launch_plan. Of any strides; outputs: ([B, H, S, E],)."""
    (out,) = outputs
    if out is None or launch_plan.is_empty(outputs):
        return None
    parts, lse, sinks = (arguments[name] for name in ("parts", "lse", "sinks"))
    launch_plan.require_float(parts=parts, lse=lse, sinks=sinks, out=out)
    _splits, batch, heads, length, width = parts.shape
    fits = parts.shape[:4] == lse.shape and parts.shape[1:] == out.shape
    if not fits or (sinks is not None and sinks.shape != (heads,)):
        reason = f"parts {list(parts.shape)} and lse {list(lse.shape)} do not fit the result"
        raise KernelLimit(ReasonKind.SHAPE_LIMIT, reason)
    if width > WIDEST:
        reason = f"parts {list(parts.shape)}: a head is 1 to {WIDEST} wide"
        raise KernelLimit(ReasonKind.SHAPE_LIMIT, reason)
    tile = choose(JoinTile())
    return launch_plan.launch(
        kernel(attention_join, **tile.hints),
        (length, heads, batch),
        (
            *(parts, lse, parts if sinks is None else sinks, out),
            *(tile.at_once, next_power_of_two(width), sinks is not None),
        ),
    )


def sample(name: str, splits: int, heads: int, length: int, width: int, **given: Any) -> Sample:
    """Batch 2. given: sinks, dtype."""

    def empty(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    dtype = given.get("dtype", torch.bfloat16)
    arguments = {
        "parts": empty(splits, 2, heads, length, width),
        "lse": empty(splits, 2, heads, length),
        "sinks": None,
        "dtype": dtype,
        **given,
    }
    return name, arguments, (empty(2, length, heads, width, dtype=dtype).transpose(1, 2),)


def samples() -> list[Sample]:
    """Head widths; with sinks; float32."""
    sinks = torch.empty(64, dtype=torch.bfloat16, device="meta")
    return [
        sample("decode", 16, 32, 1, 128),
        sample("narrow", 16, 64, 1, 64, sinks=sinks),
        sample("wide", 16, 8, 4, 256),
        sample("float32", 16, 32, 1, 128, dtype=torch.float32),
    ]
