"""Which queries see a tile of keys, inside a kernel: attention_reach from the side of the keys."""

from __future__ import annotations

import cuda.tile as ct

from tile_backend.lowering.kernels.attention_reach import (
    PADDING,
    SCANNED,
    SEGMENTS,
    at,
    queries_that_see,
    some,
    tiles_between,
    whole_tiles_between,
    within,
)
from tile_backend.lowering.kernels.attention_scores import ATTEND, UNMASKED, load_mask


def facts_of_keys(
    padding: ct.Array, segments: ct.Array, batch: int, column: ct.Tile, RULES: int
) -> tuple[ct.Tile, ct.Tile]:
    """Which of these keys are no padding, and their segments; anything where no rule says so."""
    shown, theirs = 0, 0
    if (RULES & PADDING) != 0:
        shown = at(padding, batch, column) != 0
    if (RULES & SEGMENTS) != 0:
        theirs = at(segments, batch, column)
    return shown, theirs


def tiles_that_see(
    tile: int,
    keys: int,
    count: int,
    origin: int,
    window: int,
    chunk: int,
    padding: ct.Array,
    segments: ct.Array,
    theirs: ct.Tile,
    batch: int,
    ROWS: int,
    COLS: int,
    RULES: int,
) -> tuple[int, int, int, int]:
    """(first, stop, whole, after_whole): the tiles of queries that see a tile of keys.

    From whole to after_whole no positions need to be compared. count: queries. origin: where the
    first one stands. theirs: the segments of the keys.
    """
    highest = min(tile * COLS + COLS, keys) - 1
    early = queries_that_see(tile * COLS, origin, count, window, chunk, RULES)
    late = queries_that_see(highest, origin, count, window, chunk, RULES)
    whole, after_whole = whole_tiles_between(late[0], early[1], ROWS)
    begin, end = queries_that_may_see(early[0], late[1], segments, theirs, batch, origin, RULES)
    first, stop = tiles_between(begin, end, ROWS)
    if (RULES & PADDING) != 0:
        stop = stop if any_shown(padding, batch, tile * COLS, highest) else first
    return first, stop, whole, after_whole


def mask_of(
    mask: ct.Array, batch: int, head: int, i: int, tile: int, MASK: int, MASK_ROWS: int, COLS: int
) -> tuple[ct.Tile, bool]:
    """The mask of a tile of keys and tile i of queries, [keys, queries], and whether it shows any.

    0 where there is no mask.
    """
    found, live = 0, True
    if MASK != UNMASKED:
        found = ct.transpose(load_mask(mask, batch, head, i, tile, MASK_ROWS, COLS))
    if MASK == ATTEND:
        live = some(found)
    return found, live


def hide_keys(
    weights: ct.Tile,
    found: ct.Tile,
    shown: ct.Tile,
    theirs: ct.Tile,
    segments: ct.Array,
    batch: int,
    positions: ct.Tile,
    MASK: int,
    RULES: int,
) -> ct.Tile:
    """0 where a bool mask, padding or segments hide a key from a query. Tiles: [keys, queries]."""
    if MASK == ATTEND:
        weights = ct.where(found, weights, 0.0)
    if (RULES & PADDING) != 0:
        weights = ct.where(shown, weights, 0.0)
    if (RULES & SEGMENTS) != 0:
        weights = ct.where(at(segments, batch, positions) == theirs, weights, 0.0)
    return weights


def queries_that_may_see(
    begin: int, end: int, segments: ct.Array, theirs: ct.Tile, batch: int, origin: int, RULES: int
) -> tuple[int, int]:
    """(first, last + 1) of the queries from begin to end that segments may let see a tile of keys;
    empty if none may.

    theirs: the segments of the keys. origin: where query 0 stands. What is said in
    attention_reach.keys_that_may_be_seen holds here too.
    """
    first, last = begin, end
    if (RULES & SEGMENTS) != 0:
        begin = ct.minimum(begin, end)  # for an empty interval to stay empty
        first, last = end, begin
        for group in range(begin // SCANNED, ct.cdiv(end, SCANNED)):
            query = group * SCANNED + ct.arange(SCANNED, dtype=ct.int32)[None, :]
            own = at(segments, batch, origin + query)
            live = within(query, begin, end) & (own >= ct.min(theirs)) & (own <= ct.max(theirs))
            first = ct.minimum(first, ct.min(ct.where(live, query, end)))
            last = ct.maximum(last, ct.max(ct.where(live, query + 1, begin)))
    return first, last


def any_shown(padding: ct.Array, batch: int, first: int, last: int) -> ct.Tile:
    """Is one of the keys first to last no padding? A bool, of rank 0.

    One key after the other, and mostly one of the ends is none. A tile of them would be read by
    further warps (tileiras 13.4), which take their registers from those that multiply.
    """
    row = min(batch, padding.shape[0] - 1)
    found = ct.gather(padding, (row, last)) != 0
    key = first
    while (not found) and key < last:
        found = ct.gather(padding, (row, key)) != 0
        key = key + 1
    return found
