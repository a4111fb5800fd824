"""Attention for few queries: each block takes a share of the keys that a query sees.

All queries of a group of heads are rows of one tile, so a key is read once for the whole group. The
valid prefix of a cache may end at a position that only the device knows: a block reads `offset`,
works out which tiles of keys are seen, and takes an equal share of those; nothing behind the last
key that is seen is read. `attention_join` puts the shares together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import cuda.tile as ct
import torch

from tile_backend.lowering.kernels import launch_plan
from tile_backend.lowering.kernels.attention_loop import fold_in, load_values, log_sum_exp
from tile_backend.lowering.kernels.attention_places import limit, places
from tile_backend.lowering.kernels.attention_plan import (
    check_shapes,
    four_axes,
    mask_kind,
    unit_of,
)
from tile_backend.lowering.kernels.attention_reach import (
    PADDING,
    first_position,
    keys_seen_from,
    numbers,
    of_keys,
    tiles_between,
    within,
)
from tile_backend.lowering.kernels.attention_scores import (
    ADDED,
    ATTEND,
    BASE_2,
    LOG2_E,
    ZERO,
    bounded,
    load_keys,
    product,
)
from tile_backend.lowering.kernels.attention_split_samples import split_samples
from tile_backend.lowering.kernels.attention_split_tiles import SplitTiles, split_tiles
from tile_backend.lowering.kernels.compiled import kernel
from tile_backend.lowering.kernels.configuration import Choose, as_planned
from tile_backend.lowering.kernels.launch_plan import KernelLimit, Launch, Sample
from tile_backend.lowering.kernels.row_layout import next_power_of_two
from tile_backend.lowering.reason import ReasonKind


def attention_split(
    q: ct.Array,
    k: ct.Array,
    v: ct.Array,
    mask: ct.Array,
    padding: ct.Array,
    offset: ct.Array,
    parts: ct.Array,
    lse: ct.Array,
    scale: float,
    cap: float,
    start: int,
    window: int,
    chunk: int,
    HEADS: ct.Constant[int],
    QUERIES: ct.Constant[int],
    COLS: ct.Constant[int],
    WIDTH: ct.Constant[int],
    VALUE_WIDTH: ct.Constant[int],
    RULES: ct.Constant[int],
    MASK: ct.Constant[int],
    MASK_HEADS: ct.Constant[int],
    MASK_QUERIES: ct.Constant[int],
    CAPPED: ct.Constant[bool],
    UNIT: ct.Constant[int],
    LATENCY: ct.Constant[int],
) -> None:
    """Grid (splits, key heads * tiles of HEADS query heads, batch).

    q [B, K, G, S, D], mask [B or 1, K or 1, G or 1, S or 1, L], parts [P * B, K, G, S, E], lse
    [P * B, K, G, S]. HEADS of a group and all queries, of which there are QUERIES or fewer, are one
    tile. With CAPPED, scale is that of the argument of tanh, and cap its factor. mask, padding and
    offset are anything where MASK and RULES do not name them.

    Longer than 40 lines because most are parameters.
    """
    split, batch = ct.bid(0), ct.bid(2)
    tiles_of_heads = ct.cdiv(q.shape[2], HEADS)
    head, heads = ct.bid(1) // tiles_of_heads, ct.bid(1) % tiles_of_heads
    queries, keys = q.shape[3], k.shape[2]
    ROWS = HEADS * QUERIES

    first = first_position(offset, start, RULES)
    begin, _ = keys_seen_from(first, keys, window, chunk, RULES)
    _, end = keys_seen_from(first + queries - 1, keys, window, chunk, RULES)
    begin_tile, end_tile = share(*tiles_between(begin, end, COLS), split, ct.num_blocks(0))
    k = k.slice(2, 0, ct.maximum(end, 0))
    v = v.slice(2, 0, ct.maximum(end, 0))
    own = first + numbers(0, QUERIES, queries)[None, :] + ct.zeros((HEADS, 1), ct.int32)
    begin, end = keys_seen_from(own.reshape((ROWS, 1)), keys, window, chunk, RULES)

    rows = ct.load(q, (batch, head, heads, 0, 0), (1, 1, HEADS, QUERIES, WIDTH), padding_mode=ZERO)
    rows = rows.reshape((ROWS, WIDTH))
    peak = ct.full((ROWS, 1), -math.inf, ct.float32)
    mass = ct.zeros((ROWS, 1), ct.float32)
    total = ct.zeros((ROWS, VALUE_WIDTH), ct.float32)
    for j in range(begin_tile, end_tile):
        key = load_keys(k, batch, head, j, WIDTH, COLS, LATENCY)
        scores = product(rows, key, ct.zeros((ROWS, COLS), ct.float32)) * scale
        if CAPPED:
            scores = bounded(scores, UNIT) * cap
        if MASK in (ATTEND, ADDED):
            found = load_group_mask(
                mask, batch, head, heads, j, HEADS, QUERIES, COLS, MASK_HEADS, MASK_QUERIES
            )
            if MASK == ADDED:
                scores = scores + found.astype(ct.float32)
            else:
                scores = ct.where(found, scores, -math.inf)
        column = j * COLS + ct.arange(COLS, dtype=ct.int32)[None, :]
        visible = within(column, begin, end)
        if (RULES & PADDING) != 0:
            visible = visible & (of_keys(padding, batch, j, COLS) != 0)
        scores = ct.where(visible, scores, -math.inf)
        value = load_values(v, batch, head, j, COLS, VALUE_WIDTH, LATENCY)
        # Any row may have seen no key so far, whatever hides them.
        peak, mass, total = fold_in(scores, value, peak, mass, total, True, UNIT)
    place = split * ct.num_blocks(2) + batch
    result = ct.where(mass == 0.0, 0.0, total / mass)
    result = result.reshape((1, 1, HEADS, QUERIES, VALUE_WIDTH))
    ct.store(parts, (place, head, heads, 0, 0), result, allow_tma=False)
    logs = log_sum_exp(peak, mass, UNIT).reshape((1, 1, HEADS, QUERIES))
    ct.store(lse, (place, head, heads, 0), logs, allow_tma=False)


def share(first: int, stop: int, split: int, splits: int) -> tuple[int, int]:
    """(first, last + 1) of the tiles of one split: shares differ by one tile at most."""
    each, more = (stop - first) // splits, (stop - first) % splits
    begin = first + split * each + min(split, more)
    return begin, begin + each + (1 if split < more else 0)


def load_group_mask(
    mask: ct.Array,
    batch: int,
    head: int,
    heads: int,
    j: int,
    HEADS: int,
    QUERIES: int,
    COLS: int,
    MASK_HEADS: int,
    MASK_QUERIES: int,
) -> ct.Tile:
    """The mask of all rows for tile j of the keys; what has one head or one query serves all."""
    b, h = min(batch, mask.shape[0] - 1), min(head, mask.shape[1] - 1)
    part = heads if MASK_HEADS > 1 else 0
    shape = (1, 1, MASK_HEADS, MASK_QUERIES, COLS)
    found = ct.load(mask, (b, h, part, 0, j), shape, padding_mode=ZERO, allow_tma=False)
    found = ct.broadcast_to(found.reshape(shape[2:]), (HEADS, QUERIES, COLS))
    return found.reshape((HEADS * QUERIES, COLS))


def plan(
    arguments: Mapping[str, Any],
    outputs: tuple[torch.Tensor | None, ...],
    arch: str,
    choose: Choose = as_planned,
) -> Launch | None:
    """See launch_plan.

    q [B, H, S, D], k [B, K, L, D], v [B, K, L, E] of any strides, S at most
    `attention_split_tiles.MOST_ROWS`; outputs ([P, B, H, S, E], [P, B, H, S]), float32.
    """
    if launch_plan.is_empty(outputs):
        return None
    parts, lse = outputs
    if parts is None or lse is None:
        raise limit("one half of attention without the other")
    if not (parts.is_contiguous() and lse.is_contiguous()):
        # Parts and batch become one axis: of rank 6 the launcher infers no unit strides.
        raise limit("results with gaps")
    q, k, v, mask = (arguments[name] for name in ("q", "k", "v", "mask"))
    check_shapes(q, k, v)
    if arguments["segments"] is not None:
        reason = "`segments`: packed sequences have many queries, which attention itself takes"
        raise KernelLimit(ReasonKind.SEMANTICS_UNSUPPORTED, reason)
    if arguments.get("softcap") == 0:
        raise limit("a soft cap of 0")
    place = places(arguments, q, k)
    padded = next_power_of_two(q.shape[3]), next_power_of_two(v.shape[3])
    kv_heads = k.shape[1]
    group = q.shape[1] // kv_heads
    tiles = choose(split_tiles(arch, max(padded), group, q.shape[2], q.dtype))
    kind = mask_kind(mask)
    unit = unit_of(q.dtype, kind)
    mask = None if mask is None else by_group(four_axes(mask, q, k), kv_heads)
    q, parts, lse = (by_group(x, kv_heads) for x in (q, parts.flatten(0, 1), lse.flatten(0, 1)))
    padding, _, offset = place.arrays(q)
    return launch_plan.launch(
        kernel(attention_split, **tiles.hints),
        (int(arguments["splits"]), kv_heads * -(-q.shape[2] // tiles.heads), q.shape[0]),
        (
            *(q, k, v, q if mask is None else mask, padding, offset, parts, lse),
            *scale_and_cap(arguments, LOG2_E if unit == BASE_2 else 1.0),
            *(place.start, place.window, place.chunk),
            *(tiles.heads, tiles.queries, tiles.cols, *padded, place.rules, kind),
            *mask_tile(mask, tiles),
            *(arguments.get("softcap") is not None, unit, tiles.latency),
        ),
    )


def by_group(x: torch.Tensor, kv_heads: int) -> torch.Tensor:
    """Query heads, axis 1, as key heads and the group of each; a view.

    One that serves all heads is both.
    """
    first, heads, *rest = x.shape
    group = heads // kv_heads if heads > 1 else 1
    shape = (first, heads // group, group, *rest)
    step = x.stride(1)
    strides = (x.stride(0), step * group, step, *x.stride()[2:])
    return x.as_strided(shape, strides, x.storage_offset())


def scale_and_cap(arguments: Mapping[str, Any], factor: float) -> tuple[float, float]:
    """What the products, and what their tanh is multiplied by; factor: the unit of the scores."""
    scale, softcap = float(arguments["scale"]), arguments.get("softcap")
    if softcap is None:
        return scale * factor, 1.0
    return scale / float(softcap), float(softcap) * factor


def mask_tile(mask: torch.Tensor | None, tiles: SplitTiles) -> tuple[int, int]:
    """Heads and queries of a tile of the mask."""
    if mask is None:
        return 1, 1
    return tiles.heads if mask.shape[2] > 1 else 1, tiles.queries if mask.shape[3] > 1 else 1


def samples() -> list[Sample]:
    """See attention_split_samples."""
    return split_samples()
