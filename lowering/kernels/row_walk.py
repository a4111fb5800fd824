"""Blocks that walk over all rows, tile by tile, and keep sums of what they see.

For the backward of a norm: each block takes every num_blocks-th tile of rows, and adds to a row of
its own in a [blocks, D] float32 tensor, so the sums do not depend on which block comes first. A
block that has no tile writes zeros. Without sums there is one block per tile.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import cuda.tile as ct
import torch

from tile_backend.lowering.kernels.launch_plan import MAX_GRID


def tiles_of(x: ct.Array, ROWS: int) -> int:
    """Tiles of ROWS rows in all of x, a view of row_layout.merged."""
    tiles = ct.cdiv(x.shape[x.ndim - 2], ROWS)
    if x.ndim > 2:
        tiles = tiles * x.shape[x.ndim - 3]
    if x.ndim > 3:
        tiles = tiles * x.shape[x.ndim - 4]
    return tiles


def tile_at(x: ct.Array, number: int, ROWS: int) -> tuple[int, ...]:
    """The index of tile `number` in front of the feature dimension."""
    at: tuple[int, ...] = (number,)
    if x.ndim > 2:
        tiles = ct.cdiv(x.shape[x.ndim - 2], ROWS)
        at = (number // tiles, number % tiles)
    if x.ndim > 3:
        slabs = x.shape[x.ndim - 3]
        at = (at[0] // slabs, at[0] % slabs, at[1])
    return at


def within_rows(scale: ct.Tile, x: ct.Array, at: tuple[int, ...], ROWS: int) -> ct.Tile:
    """scale [ROWS, 1] with 0 for rows beyond those of x, which are read as zeros.

    Their scale is infinite where epsilon is 0, and infinity times 0 would be in the sums over rows.
    """
    if ROWS > 1:
        row = at[x.ndim - 2] * ROWS + ct.arange(ROWS, dtype=ct.int32)
        scale = ct.where((row < x.shape[x.ndim - 2])[:, None], scale, 0.0)
    return scale


def zero_sums(N: int, ROWS: int, BLOCK: int, WANTED: bool) -> tuple[ct.Tile, ...]:
    """A sum per element of a tile of rows with N features, in pieces; none where not WANTED."""
    sums: tuple[ct.Tile, ...] = ()
    if WANTED:
        for _j in ct.static_iter(range(-(-N // BLOCK))):
            sums = (*sums, ct.zeros((ROWS, BLOCK), ct.float32))
    return sums


def extended(
    sums: tuple[ct.Tile, ...], old: tuple[ct.Tile, ...], j: int, piece: ct.Tile, WANTED: bool
) -> tuple[ct.Tile, ...]:
    """The sums with that of piece j behind them: the old one and the piece."""
    if WANTED:
        sums = (*sums, old[j] + piece)
    return sums


def store_sums(parts: ct.Array, sums: tuple[ct.Tile, ...]) -> None:
    """Add up the rows of the tile, and store them as this block's row of parts [blocks, N]."""
    for j in ct.static_iter(range(len(sums))):
        total = ct.sum(sums[j], axis=0, keepdims=True)
        ct.store(parts, (ct.bid(0), j), total, allow_tma=False)


def walk_grid(
    view: torch.Tensor, rows: int, parts: Iterable[torch.Tensor | None]
) -> tuple[int, int, int]:
    """One block per row of the sums, where there are any, else per tile of `rows` rows."""
    for sums in parts:
        if sums is not None:
            return sums.shape[0], 1, 1
    *outer, inner, _width = view.shape
    return min(-(-inner // rows) * math.prod(outer), MAX_GRID[0]), 1, 1
