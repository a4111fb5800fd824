"""Rotation of feature pairs inside kernels: one tile of heads x positions of a 4-D array.

Arrays are [B, H, S, D] or [B, S, H, D]; HEADS (1 or 2) is the axis of the heads. Tables have the
same axes, with size 1 where they broadcast. Tiles are [1, heads, positions, pairs] in the array's
order.
"""

from __future__ import annotations

import cuda.tile as ct

from tile_backend.lowering.kernels.rows import promoted, rounded

HALF, INTERLEAVED, DEINTERLEAVE = range(3)
ZERO = ct.PaddingMode.ZERO


def place(batch: int, head: int, position: int, HEADS: int) -> tuple[int, ...]:
    """(batch, head, position) in the array's axis order; tile indices and tile sizes alike."""
    at = (batch, position, head)
    if HEADS == 1:
        at = (batch, head, position)
    return at


def load_part(
    x: ct.Array, at: tuple[int, ...], size: tuple[int, ...], start: int, stop: int
) -> ct.Tile:
    """Features start..stop of x, padded with 0 to a power of two, float32."""
    part = x.slice(axis=3, start=start, stop=stop)
    width = ct.static_eval(1 << (stop - start - 1).bit_length())
    tile = ct.load(part, (*at, 0), (*size, width), padding_mode=ZERO, allow_tma=False)
    return tile.astype(ct.float32)


def store_part(out: ct.Array, at: tuple[int, ...], tile: ct.Tile, start: int, stop: int) -> None:
    """Round to out's dtype and store as features start..stop."""
    part = out.slice(axis=3, start=start, stop=stop)
    ct.store(part, (*at, 0), tile.astype(out.dtype), allow_tma=False)


def load_pairs(
    x: ct.Array, at: tuple[int, ...], size: tuple[int, ...], PAIRS: int, ADJACENT: bool
) -> tuple[ct.Tile, ct.Tile]:
    """First and second features of each pair: 2i and 2i + 1, or i and i + PAIRS."""
    if ADJACENT:
        both = load_part(x, at, size, 0, 2 * PAIRS)
        width = ct.static_eval(both.shape[3] // 2)
        pairs = both.reshape((*size, width, 2))
        shape = (*size, width, 1)
        first = ct.extract(pairs, (0, 0, 0, 0, 0), shape).reshape((*size, width))
        second = ct.extract(pairs, (0, 0, 0, 0, 1), shape).reshape((*size, width))
    else:
        first = load_part(x, at, size, 0, PAIRS)
        second = load_part(x, at, size, PAIRS, 2 * PAIRS)
    return first, second


def store_pairs(
    out: ct.Array,
    at: tuple[int, ...],
    first: ct.Tile,
    second: ct.Tile,
    PAIRS: int,
    ADJACENT: bool,
) -> None:
    """The inverse of load_pairs."""
    if ADJACENT:
        shape = ct.static_eval(tuple(first.shape))
        both = ct.cat((first.reshape((*shape, 1)), second.reshape((*shape, 1))), axis=4)
        tile = both.reshape(ct.static_eval((*shape[:3], 2 * shape[3])))
        store_part(out, at, tile, 0, 2 * PAIRS)
    else:
        store_part(out, at, first, 0, PAIRS)
        store_part(out, at, second, PAIRS, 2 * PAIRS)


def load_table(
    table: ct.Array, at: tuple[int, ...], size: tuple[int, ...], PAIRS: int, LAYOUT: int, FULL: bool
) -> tuple[ct.Tile, ct.Tile]:
    """The table's value for the first and for the second feature of each pair."""
    if FULL:
        first, second = load_pairs(table, at, size, PAIRS, LAYOUT == INTERLEAVED)
    else:
        first = load_part(table, at, size, 0, PAIRS)
        second = first
    return first, second


def rotate(
    x: ct.Array,
    cos: ct.Array,
    sin: ct.Array,
    out: ct.Array,
    batch: int,
    head: int,
    position: int,
    HEADS: int,
    TILE_HEADS: int,
    TABLE_HEADS: int,
    POSITIONS: int,
    PAIRS: int,
    WIDTH: int,
    LAYOUT: int,
    FULL: bool,
    CONJUGATE: bool,
    EVERY_OP: bool,
    BACK: bool,
) -> None:
    """Rotate one tile of x and copy its features from 2 * PAIRS to WIDTH.

    BACK: the transposed rotation, from a result's gradient to that of the argument.
    """
    at = place(batch, head, position, HEADS)
    size = place(1, TILE_HEADS, POSITIONS, HEADS)
    # Tables of one batch or one head serve all of them.
    table_head = head if TABLE_HEADS > 1 else 0
    table_at = place(min(batch, cos.shape[0] - 1), table_head, position, HEADS)
    table_size = place(1, TABLE_HEADS, POSITIONS, HEADS)
    cos_1, cos_2 = load_table(cos, table_at, table_size, PAIRS, LAYOUT, FULL)
    sin_1, sin_2 = load_table(sin, table_at, table_size, PAIRS, LAYOUT, FULL)
    if CONJUGATE:
        sin_1 = -sin_1
        sin_2 = -sin_2
    if BACK:
        swapped = -sin_2
        sin_2 = -sin_1
        sin_1 = swapped
    INTO_ADJACENT = ct.static_eval(LAYOUT != HALF if BACK else LAYOUT == INTERLEAVED)
    FROM_ADJACENT = ct.static_eval(LAYOUT == INTERLEAVED if BACK else LAYOUT != HALF)
    dtype = ct.float32
    if EVERY_OP:
        dtype = promoted(x.dtype, cos.dtype)
    first, second = load_pairs(x, at, size, PAIRS, FROM_ADJACENT)
    turned_1 = rounded(first * cos_1, dtype) - rounded(second * sin_1, dtype)
    turned_2 = rounded(second * cos_2, dtype) + rounded(first * sin_2, dtype)
    store_pairs(out, at, turned_1, turned_2, PAIRS, INTO_ADJACENT)
    if 2 * PAIRS < WIDTH:
        store_part(out, at, load_part(x, at, size, 2 * PAIRS, WIDTH), 2 * PAIRS, WIDTH)
