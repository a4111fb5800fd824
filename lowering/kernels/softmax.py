"""Softmax over the last dimension, in float32.

The row length stays a run-time value: a router's is fixed, that of attention scores grows with
every token. Short rows are one tile; long rows are walked twice, with a running maximum and sum per
lane.
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
    RESIDENT_WARPS,
    RowTile,
    merged,
    next_power_of_two,
    row_grid,
)
from tile_backend.lowering.kernels.rows import row_index, store_piece

NEG_INF = ct.PaddingMode.NEG_INF
LONGEST_TILE = 8192
"""Features held at once by 8 warps: 32 float32 values per thread."""
LONG_BLOCK = 4096


def load_scores(x: ct.Array, at: tuple[int, ...], j: int, ROWS: int, BLOCK: int) -> ct.Tile:
    """Tile j of the rows at `at`, float32 [ROWS, BLOCK], -inf beyond the row."""
    shape = ct.static_eval((1,) * (x.ndim - 2) + (ROWS, BLOCK))
    tile = ct.load(x, (*at, j), shape, padding_mode=NEG_INF, allow_tma=False)
    return tile.reshape((ROWS, BLOCK)).astype(ct.float32)


def softmax_short(
    x: ct.Array, out: ct.Array, ROWS: ct.Constant[int], BLOCK: ct.Constant[int]
) -> None:
    """Rows of at most BLOCK features. A row of -inf gives NaN, as in torch."""
    at = row_index(x)
    scores = load_scores(x, at, 0, ROWS, BLOCK)
    powers = ct.exp(scores - ct.max(scores, axis=1, keepdims=True))
    store_piece(out, at, 0, powers / ct.sum(powers, axis=1, keepdims=True))


def finite(peak: ct.Tile) -> ct.Tile:
    """The maximum, or 0 where nothing but -inf was seen: -inf - -inf would be NaN."""
    return ct.where(peak == -math.inf, 0.0, peak)


def softmax_long(x: ct.Array, out: ct.Array, BLOCK: ct.Constant[int]) -> None:
    """One row per block, of any length."""
    at = row_index(x)
    tiles = ct.cdiv(x.shape[x.ndim - 1], BLOCK)
    peak = ct.full((1, BLOCK), -math.inf, ct.float32)
    mass = ct.zeros((1, BLOCK), ct.float32)
    for j in range(tiles):
        scores = load_scores(x, at, j, 1, BLOCK)
        higher = ct.maximum(peak, scores)
        base = finite(higher)
        mass = mass * ct.exp(peak - base) + ct.exp(scores - base)
        peak = higher
    top = ct.max(peak, axis=1, keepdims=True)
    base = finite(top)
    total = ct.sum(mass * ct.exp(peak - base), axis=1, keepdims=True)
    for j in range(tiles):
        scores = load_scores(x, at, j, 1, BLOCK)
        store_piece(out, at, j, ct.exp(scores - base) / total)


def plan(
    arguments: Mapping[str, Any],
    outputs: tuple[torch.Tensor | None, ...],
    arch: str,
    choose: Choose = as_planned,
) -> Launch | None:
    """See launch_plan. x [..., D] of any strides; outputs: (like x, in the dtype asked for,)."""
    x = arguments["x"]
    (out,) = outputs
    launch_plan.require_float(x=x, out=out)
    launch_plan.require_features(x)
    if out is None or launch_plan.is_empty(outputs):
        return None
    out, x = merged((out, x))
    width, block = x.shape[-1], next_power_of_two(x.shape[-1])
    if block > LONGEST_TILE:
        tile = choose(long_tile(LONG_BLOCK, RESIDENT_WARPS // 8, width))
        long = kernel(softmax_long, **tile.hints)
        return launch_plan.launch(long, row_grid(out, 1), (x, out, tile.block))
    tile = choose(short_tile(width))
    short = kernel(softmax_short, **tile.hints)
    return launch_plan.launch(short, row_grid(out, tile.rows), (x, out, tile.rows, tile.block))


def short_tile(width: int) -> RowTile:
    """Rows in one piece each."""
    block = next_power_of_two(width)
    warps = 8 if block >= 2048 else 4
    return RowTile(max(1024 // block, 1), block, warps, RESIDENT_WARPS // warps, width, 1)


def long_tile(block: int, occupancy: int, width: int) -> RowTile:
    """One row, of which a kernel holds a piece at a time."""
    return RowTile(1, block, 8, occupancy, width, most_pieces=0, most_rows=1)


def samples() -> list[Sample]:
    """Router, score and vocabulary rows; a float32 result; a slice with two leading dimensions."""
    samples: list[Sample] = []
    for name, shape, dtype in (
        ("router", (64, 128), torch.float32),
        ("scores", (2, 8, 64, 1000), None),
        ("wide", (64, 8192), torch.float32),
        ("vocabulary", (64, 128256), torch.float32),
    ):
        x = torch.empty(shape, dtype=torch.bfloat16, device="meta")
        samples.append((name, {"x": x, "dtype": dtype}, (torch.empty_like(x, dtype=dtype),)))
    x = torch.empty(8, 64, 256, dtype=torch.bfloat16, device="meta")[:, :32]
    samples.append(("slice", {"x": x, "dtype": None}, (x.new_empty(x.shape),)))
    return samples
