"""The gradient of softmax: y * (dout - sum(dout * y)), with y computed again from x.

As `softmax`: short rows are one tile, long rows are walked twice with a running maximum per lane.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import cuda.tile as ct
import torch

from tile_backend.lowering.kernels import launch_plan
from tile_backend.lowering.kernels.compiled import kernel
from tile_backend.lowering.kernels.configuration import Choose, as_planned
from tile_backend.lowering.kernels.launch_plan import Launch, Sample
from tile_backend.lowering.kernels.row_layout import (
    merged,
    next_power_of_two,
    row_grid,
)
from tile_backend.lowering.kernels.rows import load_piece, row_index, store_piece
from tile_backend.lowering.kernels.softmax import finite, load_scores, long_tile, short_tile

LONGEST_TILE = 4096
"""Features held at once by 8 warps: 16 values of x and of dout per thread."""
LONG_BLOCK = 2048


def softmax_grad_short(
    dout: ct.Array, x: ct.Array, dx: ct.Array, ROWS: ct.Constant[int], BLOCK: ct.Constant[int]
) -> None:
    """Rows of at most BLOCK features. A row of -inf gives NaN, as in torch."""
    at = row_index(x)
    scores = load_scores(x, at, 0, ROWS, BLOCK)
    slopes = load_piece(dout, at, 0, ROWS, BLOCK)
    powers = ct.exp(scores - ct.max(scores, axis=1, keepdims=True))
    weights = powers / ct.sum(powers, axis=1, keepdims=True)
    mean = ct.sum(weights * slopes, axis=1, keepdims=True)
    store_piece(dx, at, 0, weights * (slopes - mean))


def softmax_grad_long(dout: ct.Array, x: ct.Array, dx: ct.Array, BLOCK: ct.Constant[int]) -> None:
    """One row per block, of any length."""
    at = row_index(x)
    tiles = ct.cdiv(x.shape[x.ndim - 1], BLOCK)
    peak = ct.full((1, BLOCK), -math.inf, ct.float32)
    mass = ct.zeros((1, BLOCK), ct.float32)
    moment = ct.zeros((1, BLOCK), ct.float32)
    for j in range(tiles):
        scores = load_scores(x, at, j, 1, BLOCK)
        slopes = load_piece(dout, at, j, 1, BLOCK)
        higher = ct.maximum(peak, scores)
        base = finite(higher)
        decay = ct.exp(peak - base)
        powers = ct.exp(scores - base)
        mass = mass * decay + powers
        moment = moment * decay + powers * slopes
        peak = higher
    base = finite(ct.max(peak, axis=1, keepdims=True))
    shares = ct.exp(peak - base)
    total = ct.sum(mass * shares, axis=1, keepdims=True)
    mean = ct.sum(moment * shares, axis=1, keepdims=True) / total
    for j in range(tiles):
        weights = ct.exp(load_scores(x, at, j, 1, BLOCK) - base) / total
        slopes = load_piece(dout, at, j, 1, BLOCK)
        store_piece(dx, at, j, weights * (slopes - mean))


def plan(
    arguments: Mapping[str, Any],
    outputs: tuple[torch.Tensor | None, ...],
    arch: str,
    choose: Choose = as_planned,
) -> Launch | None:
    """See launch_plan. dout and x [..., D] of any strides; outputs: (like x,)."""
    dout, x = arguments["dout"], arguments["x"]
    (dx,) = outputs
    launch_plan.require_float(dout=dout, x=x)
    launch_plan.require_same_shape(x=x, dout=dout)
    launch_plan.require_features(x)
    if dx is None or launch_plan.is_empty(outputs):
        return None
    dx, x, dout = merged((dx, x, dout))
    width = x.shape[-1]
    if next_power_of_two(width) > LONGEST_TILE:
        tile = choose(long_tile(LONG_BLOCK, 2, width))  # more would spill
        long = kernel(softmax_grad_long, **tile.hints)
        return launch_plan.launch(long, row_grid(dx, 1), (dout, x, dx, tile.block))
    tile = choose(short_tile(width))
    short = kernel(softmax_grad_short, **tile.hints)
    return launch_plan.launch(short, row_grid(dx, tile.rows), (dout, x, dx, tile.rows, tile.block))


def samples() -> list[Sample]:
    """Router, score and vocabulary rows; gradients in float32."""
    half, samples = torch.bfloat16, list[Sample]()
    for name, shape, dtype in (
        ("router", (64, 128), torch.float32),
        ("scores", (2, 8, 64, 1000), half),
        ("wide", (64, 4096), half),
        ("vocabulary", (64, 128256), torch.float32),
    ):
        x = torch.empty(shape, dtype=half, device="meta")
        dout = torch.empty_like(x, dtype=dtype)
        samples.append((name, {"dout": dout, "x": x}, (torch.empty_like(x),)))
    return samples
