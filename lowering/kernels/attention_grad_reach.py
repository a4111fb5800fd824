"""Which queries see a tile of keys, by padding and segments, inside a kernel.

Without looking at them element by element: see attention_reach.
"""

from __future__ import annotations

import cuda.tile as ct

from tile_backend.lowering.kernels.attention_reach import SCANNED, SEGMENTS, at, within


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


def any_shown(padding: ct.Array, batch: int, first: int, last: int) -> bool:
    """Is one of the keys first to last no padding?

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
