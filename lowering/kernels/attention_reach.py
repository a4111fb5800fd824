"""Which keys a query sees, inside a kernel: by position, by padding, by segment.

RULES is a sum of the constants below: those of the rules of `_attention_math.seen` that hold. By
position, a query sees the keys of one interval, and a key is seen by the queries of one interval;
both bounds grow with the position. So two ends of a tile bound what all of it sees, and tiles that
lie wholly inside need no comparison. Every position is that of a query that exists: a tile that
reaches past the last one repeats it.
"""

from __future__ import annotations

import math

import cuda.tile as ct

CAUSAL, WINDOW, CHUNK, PADDING, SEGMENTS, OFFSET = 1, 2, 4, 8, 16, 32
NO_RULES = 0
ZERO = ct.PaddingMode.ZERO
SCANNED = 1024


def first_position(offset: ct.Array, start: int, RULES: int) -> int:
    """Where query 0 stands. offset: one element, read only if OFFSET."""
    first = start
    if (RULES & OFFSET) != 0:
        first = first + ct.gather(offset, 0).astype(ct.int32)
    return first


def keys_seen_from(
    position: int | ct.Tile, keys: int, window: int, chunk: int, RULES: int
) -> tuple[int | ct.Tile, int | ct.Tile]:
    """(begin, end) of the keys that a query at `position` sees; of each, for a tile of positions.

    0 <= begin; end <= keys. An interval is empty where end <= begin. A bound that no rule depends
    on is a number.
    """
    begin = 0
    end = keys
    if (RULES & CAUSAL) != 0:
        end = ct.minimum(end, position + 1)
    if (RULES & WINDOW) != 0:
        begin = ct.maximum(begin, position - window + 1)
    if (RULES & CHUNK) != 0:
        own = position // chunk * chunk
        begin = ct.maximum(begin, own)
        end = ct.minimum(end, own + chunk)
    return begin, end


def queries_that_see(
    key: int | ct.Tile, first: int, queries: int, window: int, chunk: int, RULES: int
) -> tuple[int | ct.Tile, int | ct.Tile]:
    """(begin, end) of the queries that see a key, of each for a tile of keys: numbers of queries,
    not positions. 0 <= begin; end <= queries.
    """
    begin = 0
    end = queries
    if (RULES & CAUSAL) != 0:
        begin = ct.maximum(begin, key - first)
    if (RULES & WINDOW) != 0:
        end = ct.minimum(end, key + window - first)
    if (RULES & CHUNK) != 0:
        own = key // chunk * chunk - first
        begin = ct.maximum(begin, own)
        end = ct.minimum(end, own + chunk)
    return begin, end


def tiles_between(begin: int, end: int, SIZE: int) -> tuple[int, int]:
    """(first, last + 1) of the tiles of SIZE that touch an interval; none if it is empty."""
    first = begin // SIZE
    stop = ct.cdiv(end, SIZE)
    return first, ct.where(end > begin, stop, first)


def whole_tiles_between(begin: int, end: int, SIZE: int) -> tuple[int, int]:
    """(first, last + 1) of the tiles of SIZE inside an interval; none if first >= last + 1.

    Between the largest begin and the smallest end of a tile's intervals no comparison is needed.
    """
    return ct.cdiv(begin, SIZE), ct.maximum(end, 0) // SIZE


def numbers(tile: int, SIZE: int, count: int) -> ct.Tile:
    """The numbers of a tile's elements [SIZE], the last of `count` repeated."""
    return ct.minimum(tile * SIZE + ct.arange(SIZE, dtype=ct.int32), count - 1)


def within(column: ct.Tile, begin: ct.Tile, end: ct.Tile) -> ct.Tile:
    """Element-wise begin <= column < end."""
    return (column >= begin) & (column < end)


# --- by data --------------------------------------------------------------------------------------


def of_keys(x: ct.Array, batch: int, tile: int, SIZE: int) -> ct.Tile:
    """A tile of keys of `padding` (0 or 1) or `segments`, [1, SIZE]; 0 outside.

    A batch axis of size 1 serves all.
    """
    row = min(batch, x.shape[0] - 1)
    return ct.load(x, (row, tile), (1, SIZE), padding_mode=ZERO, allow_tma=False)


def at(x: ct.Array, batch: int, positions: ct.Tile) -> ct.Tile:
    """The same for any positions, of their shape."""
    return ct.gather(x, (min(batch, x.shape[0] - 1), positions))


def keys_that_may_be_seen(
    begin: int,
    end: int,
    padding: ct.Array,
    segments: ct.Array,
    own: ct.Tile,
    batch: int,
    RULES: int,
) -> tuple[int, int]:
    """(first, last + 1) of the keys from begin to end that padding and segments may show; empty if
    none is.

    own: the segments of the queries. A key whose segment is not in their range is hidden, in
    whatever order they come. Only the ends are cut off: a branch around the products of a tile
    would keep the compiler from loading the next tile meanwhile. SCANNED keys at a time, since each
    look waits for memory, and since tileiras 13.4 spills or fails where a tile has fewer elements
    than the block has threads.
    """
    begin = ct.minimum(begin, end)  # queries may stand behind all keys
    first, last = begin, end
    if (RULES & (PADDING | SEGMENTS)) != 0:
        first, last = end, begin
        for group in range(begin // SCANNED, ct.cdiv(end, SCANNED)):
            key = group * SCANNED + ct.arange(SCANNED, dtype=ct.int32)[None, :]
            live = within(key, begin, end)
            if (RULES & PADDING) != 0:
                live = live & (at(padding, batch, key) != 0)
            if (RULES & SEGMENTS) != 0:
                theirs = at(segments, batch, key)
                live = live & (theirs >= ct.min(own)) & (theirs <= ct.max(own))
            first = ct.minimum(first, ct.min(ct.where(live, key, end)))
            last = ct.maximum(last, ct.max(ct.where(live, key + 1, begin)))
    return first, last


def tiles_seen(
    lowest: int,
    highest: int,
    keys: int,
    window: int,
    chunk: int,
    padding: ct.Array,
    segments: ct.Array,
    own: ct.Tile,
    batch: int,
    COLS: int,
    RULES: int,
    ALL: bool,
) -> tuple[int, int, int, int]:
    """(begin, middle, stop, after_whole): the tiles of keys that queries at these positions see.

    Positions are compared in those before the middle, which a window or a chunk cuts, and in those
    from after_whole on. ALL: every tile, whether it is seen or not.
    """
    early = keys_seen_from(lowest, keys, window, chunk, RULES)
    late = keys_seen_from(highest, keys, window, chunk, RULES)
    whole, after_whole = whole_tiles_between(late[0], early[1], COLS)
    if ALL:
        begin, stop = 0, ct.cdiv(keys, COLS)
    else:
        begin, stop = keys_that_may_be_seen(early[0], late[1], padding, segments, own, batch, RULES)
        begin, stop = tiles_between(begin, stop, COLS)
    middle = begin
    if (RULES & (WINDOW | CHUNK)) != 0:
        middle = ct.maximum(begin, ct.minimum(whole, stop))
    return begin, middle, stop, after_whole


def hide_by_position(
    scores: ct.Tile,
    hidden: float,
    tile: int,
    begin: ct.Tile,
    end: ct.Tile,
    keys: int,
    ALL: bool,
) -> ct.Tile:
    """`hidden` outside of each query's interval, and -inf for keys that do not exist."""
    COLS = scores.shape[1]
    column = tile * COLS + ct.arange(COLS, dtype=ct.int32)[None, :]
    scores = ct.where(within(column, begin, end), scores, hidden)
    if ALL:
        scores = ct.where(column < keys, scores, -math.inf)
    return scores


def hide_by_data(
    scores: ct.Tile,
    hidden: float,
    padding: ct.Array,
    segments: ct.Array,
    own: ct.Tile,
    batch: int,
    tile: int,
    RULES: int,
) -> ct.Tile:
    """`hidden` where padding or segments hide a key. own: the segments of the queries."""
    COLS = scores.shape[1]
    if (RULES & PADDING) != 0:
        scores = ct.where(of_keys(padding, batch, tile, COLS) != 0, scores, hidden)
    if (RULES & SEGMENTS) != 0:
        scores = ct.where(own == of_keys(segments, batch, tile, COLS), scores, hidden)
    return scores


def some(conditions: ct.Tile) -> bool:
    """Does any hold?"""
    return ct.max(conditions.astype(ct.int32)) > 0
