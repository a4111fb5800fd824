"""Which keys a query sees, inside a kernel: by position, by padding, by segment.

RULES is a sum of the constants below: those of the rules of `_attention_math.seen` that hold. By
position, a query sees the keys of one interval, and a key is seen by the queries of one interval;
both bounds grow with the position. So two ends of a tile bound what all of it sees, and tiles that
lie wholly inside need no comparison. Every position is that of a query that exists: a tile that
reaches past the last one repeats it.
"""

from __future__ import annotations

import cuda.tile as ct

CAUSAL, WINDOW, CHUNK, PADDING, SEGMENTS, OFFSET = 1, 2, 4, 8, 16, 32
NO_RULES = 0
ZERO = ct.PaddingMode.ZERO


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
    return first, stop if end > begin else first


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


def shown_keys(padding: ct.Array, batch: int, tile: int, SIZE: int) -> ct.Tile:
    """Padding of a tile of keys, bool [SIZE]; False outside. A batch axis of size 1 serves all."""
    row = min(batch, padding.shape[0] - 1)
    found = ct.load(padding, (row, tile), (1, SIZE), padding_mode=ZERO, allow_tma=False)
    return found.reshape((SIZE,))


def segments_at(segments: ct.Array, batch: int, positions: ct.Tile) -> ct.Tile:
    """The segments at these positions, of the same shape; 0 outside."""
    row = min(batch, segments.shape[0] - 1)
    return ct.gather(segments, (row, positions))


def some(conditions: ct.Tile) -> bool:
    """Does any hold?"""
    return ct.max(conditions.astype(ct.int32)) > 0


def may_meet(ids: ct.Tile, others: ct.Tile) -> bool:
    """False only where no id is among the others: the ranges of their values do not overlap."""
    return (ct.min(ids) <= ct.max(others)) & (ct.max(ids) >= ct.min(others))
