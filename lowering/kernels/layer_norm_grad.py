"""The gradients of LayerNorm: one pass over x and dout, sums for weight and bias in float32."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cuda.tile as ct
import torch

from tile_backend.lowering.kernels import launch_plan
from tile_backend.lowering.kernels.compiled import kernel
from tile_backend.lowering.kernels.configuration import Choose, as_planned
from tile_backend.lowering.kernels.launch_plan import Launch, Sample
from tile_backend.lowering.kernels.norm_grad_plan import (
    BOTH,
    NEITHER,
    X,
    gain_rows,
    held,
    norm_grad_samples,
    wanted,
)
from tile_backend.lowering.kernels.norm_plan import check_rows
from tile_backend.lowering.kernels.row_layout import merged, row_tile
from tile_backend.lowering.kernels.row_walk import (
    extended,
    store_sums,
    tile_at,
    tiles_of,
    walk_grid,
    within_rows,
    zero_sums,
)
from tile_backend.lowering.kernels.rows import (
    load_piece,
    load_rows,
    row_mean_of_any,
    store_piece,
    within_row,
)

RESIDENT = {1: 3, 3: 2}
FROZEN = {2: 3, 3: 2}
"""Pieces of a row -> quarters of 32 warps, see row_tile: with sums for the gains, and without."""
MOST_HELD = {2: BOTH, 7: X}
"""Pieces of a row -> what is held."""


def centred(
    x: ct.Array,
    pieces: tuple[ct.Tile, ...],
    at: tuple[int, ...],
    j: int,
    mean: ct.Tile,
    N: int,
    BLOCK: int,
    HELD: int,
) -> ct.Tile:
    """Piece j of x - mean, 0 beyond the N features; x is read again unless it is HELD."""
    piece = pieces[j] if HELD != NEITHER else load_piece(x, at, j, mean.shape[0], BLOCK)
    return within_row(piece - mean, j, N)


def weighted(
    slope: ct.Tile, weight: ct.Array, at: tuple[int, ...], j: int, WEIGHTED: bool
) -> ct.Tile:
    """dout * weight: the gradient of the normalised row."""
    if WEIGHTED:
        ROWS, BLOCK = slope.shape
        slope = slope * load_piece(weight, at, j, ROWS, BLOCK)
    return slope


def layer_norm_grad(
    dout: ct.Array,
    x: ct.Array,
    weight: ct.Array,
    dx: ct.Array,
    of_weight: ct.Array,
    of_bias: ct.Array,
    eps: float,
    N: ct.Constant[int],
    ROWS: ct.Constant[int],
    BLOCK: ct.Constant[int],
    HELD: ct.Constant[int],
    WEIGHTED: ct.Constant[bool],
    OF_X: ct.Constant[bool],
    OF_WEIGHT: ct.Constant[bool],
    OF_BIAS: ct.Constant[bool],
) -> None:
    """Grid of row_walk.walk_grid. Views of row_layout.merged but for the sums [blocks, N].

    What is not there (weight, dx, of_weight, of_bias) is any array.
    Longer than 40 lines because rows that stay in registers are variables of the loop's body.
    """
    weight_sums = zero_sums(N, ROWS, BLOCK, OF_WEIGHT)
    bias_sums = zero_sums(N, ROWS, BLOCK, OF_BIAS)
    for number in range(ct.bid(0), tiles_of(x, ROWS), ct.num_blocks(0)):
        at = tile_at(x, number, ROWS)
        pieces = load_rows(x, at, N, ROWS, BLOCK)
        slopes: tuple[ct.Tile, ...] = ()
        mean = row_mean_of_any(pieces, N)
        squares = ct.zeros((ROWS, BLOCK), ct.float32)
        total = ct.zeros((ROWS, BLOCK), ct.float32)
        products = ct.zeros((ROWS, BLOCK), ct.float32)
        for j in ct.static_iter(range(-(-N // BLOCK))):
            piece = centred(x, pieces, at, j, mean, N, BLOCK, HELD)
            squares = squares + piece * piece
            if OF_X:
                slope = load_piece(dout, at, j, ROWS, BLOCK)
                slopes = (*slopes, slope)
                slope = weighted(slope, weight, at, j, WEIGHTED)
                total = total + slope
                products = products + slope * piece
        scale = ct.rsqrt(ct.sum(squares, axis=1, keepdims=True) / N + eps)
        scale = within_rows(scale, x, at, ROWS)
        shift = ct.sum(total, axis=1, keepdims=True) / N
        share = ct.sum(products, axis=1, keepdims=True) / N * scale
        new_weight: tuple[ct.Tile, ...] = ()
        new_bias: tuple[ct.Tile, ...] = ()
        for j in ct.static_iter(range(-(-N // BLOCK))):
            unit = centred(x, pieces, at, j, mean, N, BLOCK, HELD) * scale
            kept = HELD == BOTH and OF_X
            slope = slopes[j] if kept else load_piece(dout, at, j, ROWS, BLOCK)
            new_weight = extended(new_weight, weight_sums, j, slope * unit, OF_WEIGHT)
            new_bias = extended(new_bias, bias_sums, j, slope, OF_BIAS)
            if OF_X:
                slope = weighted(slope, weight, at, j, WEIGHTED)
                if N == 1:
                    slope = shift  # its own mean, but for the rounding of a multiply-add
                store_piece(dx, at, j, scale * (slope - shift - unit * share))
        weight_sums = new_weight
        bias_sums = new_bias
    store_sums(of_weight, weight_sums)
    store_sums(of_bias, bias_sums)


def plan(
    arguments: Mapping[str, Any],
    outputs: tuple[torch.Tensor | None, ...],
    arch: str,
    choose: Choose = as_planned,
) -> Launch | None:
    """See launch_plan. dout and x [..., D] of any strides, weight [D] or None; outputs: (like x,
    float32 [weight_parts, D] and [bias_parts, D]), empty or None where not wanted.
    """
    dout, x, weight = (arguments[name] for name in ("dout", "x", "weight"))
    dx, *parts = wanted(outputs)
    width = check_rows({"dout": dout, "x": x}, {"weight": weight})
    if dx is None and not any(sums is not None for sums in parts):
        return None
    quarters = RESIDENT if any(sums is not None for sums in parts) else FROZEN
    tile = choose(row_tile(width, quarters))
    into, x, gain, dout = merged((x if dx is None else dx, x, gain_rows(x, weight), dout))
    flags = (weight is not None, *(out is not None for out in (dx, *parts)))
    return launch_plan.launch(
        kernel(layer_norm_grad, **tile.hints),
        walk_grid(into, tile.rows, parts),
        (
            *(dout, x, gain, into, *(x if sums is None else sums for sums in parts)),
            *(
                float(arguments["eps"]),
                width,
                tile.rows,
                tile.block,
                held(width, MOST_HELD),
                *flags,
            ),
        ),
    )


def samples() -> list[Sample]:
    """Rows of every length, and frozen gains."""
    return norm_grad_samples(("weight", "bias"), {"eps": 1e-5})
