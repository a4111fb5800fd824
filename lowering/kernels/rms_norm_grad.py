"""The gradients of RMSNorm: one pass over x and dout, sums for the weight in float32."""

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
from tile_backend.lowering.kernels.rows import load_piece, part_of_row, store_piece

SHORT = {1: 4}
RESIDENT = {2: 3, 4: 2}
FROZEN = {2: 4, 4: 2}
"""Pieces of a row -> quarters of 32 warps, see row_tile: several rows to a piece, one, and one
without sums for the weight.
"""
MOST_HELD = {1: BOTH, 8: X}
"""Pieces of a row -> what is held."""


def slope_of(
    slope: ct.Tile, weight: ct.Array, at: tuple[int, ...], j: int, offset: float, WEIGHTED: bool
) -> ct.Tile:
    """dout * (offset + weight): the gradient of the normalised row."""
    if WEIGHTED:
        ROWS, BLOCK = slope.shape
        slope = slope * (load_piece(weight, at, j, ROWS, BLOCK) + offset)
    return slope


def rms_norm_grad(
    dout: ct.Array,
    x: ct.Array,
    weight: ct.Array,
    added: ct.Array,
    dx: ct.Array,
    parts: ct.Array,
    eps: float,
    offset: float,
    N: ct.Constant[int],
    ROWS: ct.Constant[int],
    BLOCK: ct.Constant[int],
    HELD: ct.Constant[int],
    WEIGHTED: ct.Constant[bool],
    ADDED: ct.Constant[bool],
    OF_X: ct.Constant[bool],
    OF_WEIGHT: ct.Constant[bool],
) -> None:
    """Grid of row_walk.walk_grid. Views of row_layout.merged but for parts [blocks, N].

    What is not there (weight, added, dx, parts) is any array.
    Longer than 40 lines because rows that stay in registers are variables of the loop's body.
    """
    sums = zero_sums(N, ROWS, BLOCK, OF_WEIGHT)
    for number in range(ct.bid(0), tiles_of(x, ROWS), ct.num_blocks(0)):
        at = tile_at(x, number, ROWS)
        squares = ct.zeros((ROWS, BLOCK), ct.float32)
        products = ct.zeros((ROWS, BLOCK), ct.float32)
        pieces: tuple[ct.Tile, ...] = ()
        slopes: tuple[ct.Tile, ...] = ()
        for j in ct.static_iter(range(-(-N // BLOCK))):
            piece = load_piece(x, at, j, ROWS, BLOCK)
            pieces = (*pieces, piece)
            squares = squares + piece * piece
            if OF_X:
                slope = load_piece(dout, at, j, ROWS, BLOCK)
                slopes = (*slopes, slope)
                slope = slope_of(slope, weight, at, j, offset, WEIGHTED)
                products = products + (slope * part_of_row(N)) * piece
        scale = ct.rsqrt(ct.sum(squares, axis=1, keepdims=True) / N + eps)
        scale = within_rows(scale, x, at, ROWS)
        share = ct.sum(products, axis=1, keepdims=True) / (N * part_of_row(N)) * scale
        new: tuple[ct.Tile, ...] = ()
        for j in ct.static_iter(range(-(-N // BLOCK))):
            unit = pieces[j] if HELD != NEITHER else load_piece(x, at, j, ROWS, BLOCK)
            unit = unit * scale
            kept = HELD == BOTH and OF_X
            slope = slopes[j] if kept else load_piece(dout, at, j, ROWS, BLOCK)
            new = extended(new, sums, j, slope * unit, OF_WEIGHT)
            if OF_X:
                slope = slope_of(slope, weight, at, j, offset, WEIGHTED)
                result = scale * (slope - unit * share)
                if ADDED:
                    result = result + load_piece(added, at, j, ROWS, BLOCK)
                store_piece(dx, at, j, result)
        sums = new
    store_sums(parts, sums)


def plan(
    arguments: Mapping[str, Any],
    outputs: tuple[torch.Tensor | None, ...],
    arch: str,
    choose: Choose = as_planned,
) -> Launch | None:
    """See launch_plan. dout, x and added (or None) [..., D] of any strides, weight [D] or None;
    outputs: (like x, float32 [weight_parts, D]), empty or None where not wanted.
    """
    dout, x, weight, added = (arguments[name] for name in ("dout", "x", "weight", "added"))
    dx, parts = wanted(outputs)
    rows = {"dout": dout, "x": x, **({} if added is None else {"added": added})}
    width = check_rows(rows, {"weight": weight})
    if dx is None and parts is None:
        return None
    several = row_tile(width).rows > 1
    quarters = SHORT if several else FROZEN if parts is None else RESIDENT
    tile = choose(row_tile(width, quarters))
    given = [gain_rows(x, weight), dout, x if added is None else added]
    into, x, weight_rows, dout, more = merged((x if dx is None else dx, x, *given))
    flags = (weight is not None, added is not None, dx is not None, parts is not None)
    return launch_plan.launch(
        kernel(rms_norm_grad, **tile.hints),
        walk_grid(into, tile.rows, (parts,)),
        (
            *(dout, x, weight_rows, more, into, x if parts is None else parts),
            *(float(arguments["eps"]), float(arguments.get("offset", 0.0))),
            *(width, tile.rows, tile.block, held(width, MOST_HELD), *flags),
        ),
    )


def samples() -> list[Sample]:
    """Rows of every length, a frozen weight, and one with a gradient to add to that of x."""
    numbers = {"added": None, "eps": 1e-6, "offset": 0.0}
    found = norm_grad_samples(("weight",), numbers)
    _, arguments, outputs = found[2]
    added = {**arguments, "added": torch.empty_like(arguments["x"]), "offset": 1.0}
    return [*found, ("added", added, outputs)]
