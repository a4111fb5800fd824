"""Tile sizes and compiler hints of the attention kernel, per architecture and head width.

Chosen from compiled code, not yet from timings: the largest tiles that spill no register on sm_90
and sm_100; docs/kernels.md has what they spill on the others. Eight worker warps are two groups of
64 rows each.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch

from tile_backend.lowering.kernels.configuration import Configuration, Values

WARP_GROUPS = ("sm_90", "sm_100", "sm_103", "sm_110")
"""Architectures whose matrix instructions take 64 rows or more from shared memory."""
EIGHT_WARPS = 8

ROWS = (16, 64, 128)
"""Between the thinnest matrix instruction and 64 rows, tiles spill."""
COLS = (16, 32, 64, 128)
LATENCIES = (2, 4)
OCCUPANCIES = (None, 2)


@dataclasses.dataclass(frozen=True)
class AttentionTiles(Configuration):
    """rows: queries per block; cols: keys per step; latency: depth of the k and v pipeline.

    Clusters of blocks are left out: they pay from tiles of 256 rows on.
    """

    streams: ClassVar[bool] = False

    rows: int
    cols: int
    latency: int
    warps: int | None = None
    occupancy: int | None = None

    def space(self) -> Values:
        return {
            "rows": [n for n in ROWS if self.rows <= 2 * n and n <= 2 * self.rows],
            "cols": [n for n in COLS if self.cols <= 2 * n and n <= 2 * self.cols],
            "latency": sorted({self.latency, *LATENCIES}),
            "warps": (None, EIGHT_WARPS),
            "occupancy": OCCUPANCIES,
        }

    def fits(self) -> bool:
        """Eight warps need rows for all of them; with four, a large tile would spill."""
        large = self.rows * self.cols > 128 * 64
        return self.rows >= 64 if self.warps == EIGHT_WARPS else not large


def attention_tiles(
    arch: str, width: int, length: int, dtype: torch.dtype, wide_ids: bool = False
) -> AttentionTiles:
    """width: the wider of both padded head widths; length: queries per head. wide_ids: segments are
    int64, of which a tile of comparisons takes twice the registers.
    """
    if dtype is torch.float32:
        return full_precision_tiles(arch, width, length)
    if length <= 16:
        # Few queries: the tile is as thin as a matrix instruction, and all time goes into k and v.
        return AttentionTiles(16, 64, 2)
    if length <= 64:
        return AttentionTiles(64, 64 if width <= 128 or arch in WARP_GROUPS else 32, 2)
    if arch in WARP_GROUPS:
        narrow = width > 128 or (wide_ids and arch != "sm_90")
        return AttentionTiles(128, 64 if narrow else 128, 2, EIGHT_WARPS)
    if width == 128 and arch != "sm_80":
        # 100 KB of shared memory and no matrix instruction that reads it: 128 rows would spill.
        return AttentionTiles(64, 64, 2)
    return AttentionTiles(128, 64 if width <= 128 else 32, 2, EIGHT_WARPS)


def full_precision_tiles(arch: str, width: int, length: int) -> AttentionTiles:
    """float32 operands are split in two tfloat32 parts each: smaller tiles, heads up to 128."""
    if width <= 64:
        return AttentionTiles(16 if length <= 16 else 64, 32, 2)
    if arch in ("sm_100", "sm_103", "sm_110"):
        return AttentionTiles(64, 16, 2)
    if arch == "sm_90" and length > 16:
        return AttentionTiles(64, 16, 2, EIGHT_WARPS)
    return AttentionTiles(32, 16, 2)
