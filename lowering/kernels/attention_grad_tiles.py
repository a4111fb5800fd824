"""Tile sizes and compiler hints of the kernels of attention's backward.

Chosen from compiled code, not from timings: the largest tiles that spill no register on sm_90 and
sm_100, but for those that docs/kernels.md excuses. rows: queries, cols: keys of a tile.
"""

from __future__ import annotations

import torch

from tile_backend.lowering.kernels.attention_tiles import (
    EIGHT_WARPS,
    WARP_GROUPS,
    AttentionTiles,
)


def grad_q_tiles(arch: str, width: int, dtype: torch.dtype, crowded: bool) -> AttentionTiles:
    """width: the wider of both padded head widths. crowded: with a soft cap or a mask tensor, which
    take registers beside the scores.
    """
    if arch not in WARP_GROUPS:
        narrow = width > 128 or dtype is torch.float32
        return AttentionTiles(64, 16 if narrow else 32, 2)
    if dtype is torch.float32:
        return AttentionTiles(64, 32, 1, EIGHT_WARPS)
    if width > 128:
        return AttentionTiles(64, 64, 2, EIGHT_WARPS)
    return AttentionTiles(128, 64 if crowded else 128, 2, EIGHT_WARPS)


def grad_kv_tiles(arch: str, width: int, dtype: torch.dtype, capped: bool) -> AttentionTiles:
    """capped: with a soft cap. Each block holds both gradients of its keys, so twice as much as
    that of the other kernel.
    """
    if arch not in WARP_GROUPS:
        return AttentionTiles(32, 32, 2)
    if dtype is torch.float32:
        return AttentionTiles(32, 64, 1, EIGHT_WARPS)
    if width > 128:
        return AttentionTiles(64 if arch == "sm_90" else 32, 64, 1, EIGHT_WARPS)
    return AttentionTiles(32 if capped else 64, 128, 2, EIGHT_WARPS)
