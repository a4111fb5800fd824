"""Tile sizes and compiler hints of attention_split, per architecture, head width and group.

Chosen from compiled code, not yet from timings: what spills no register on sm_90 and sm_100.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch

from tile_backend.lowering.kernels.attention_places import limit
from tile_backend.lowering.kernels.attention_tiles import (
    COLS,
    EIGHT_WARPS,
    LATENCIES,
    OCCUPANCIES,
    WARP_GROUPS,
)
from tile_backend.lowering.kernels.configuration import Configuration, Values
from tile_backend.lowering.kernels.row_layout import next_power_of_two

THIN, MOST_ROWS = 16, 64
"""Rows of a tile: of the thinnest matrix instruction, and of those that take 64 from shared memory.
Between them, 32 rows spill on every architecture."""
TWO_BLOCKS = 2
"""Per multiprocessor: while one begins or ends, the other has loads in flight."""


@dataclasses.dataclass(frozen=True)
class SplitTiles(Configuration):
    """heads, queries: rows of a block, together one tile. cols: keys per step.

    latency: depth of the k and v pipeline.
    """

    streams: ClassVar[bool] = False

    heads: int
    queries: int
    cols: int
    latency: int
    warps: int | None = None
    occupancy: int | None = None

    def space(self) -> Values:
        return {
            "cols": [n for n in COLS if self.cols <= 2 * n and n <= 2 * self.cols],
            "latency": sorted({self.latency, *LATENCIES}),
            "warps": (None, EIGHT_WARPS),
            "occupancy": OCCUPANCIES,
        }

    def fits(self) -> bool:
        return self.heads * self.queries >= MOST_ROWS or self.warps is None


def split_tiles(arch: str, width: int, group: int, length: int, dtype: torch.dtype) -> SplitTiles:
    """width: the wider of both padded head widths; group: query heads per key head."""
    queries = next_power_of_two(length)
    if queries > MOST_ROWS:
        raise limit(f"{length} queries per head; attention_split takes 1 to {MOST_ROWS}")
    full = dtype is torch.float32
    few = next_power_of_two(group) * queries <= THIN
    if few and not (full and width > 64):
        return SplitTiles(THIN // queries, queries, 32 if full else 64, 2, None, TWO_BLOCKS)
    heads = MOST_ROWS // queries
    if full:
        warps = EIGHT_WARPS if arch == "sm_90" and width > 64 else None
        return SplitTiles(heads, queries, 16 if width > 64 else 32, 2, warps)
    if arch not in WARP_GROUPS:
        return SplitTiles(heads, queries, 64 if width <= 128 else 32, 2)
    return SplitTiles(heads, queries, 64, 2, None, TWO_BLOCKS if width <= 128 else None)
