"""The kernel of `attention` and of `attention_with_lse`: flash style, with no score matrix in
memory and the keys and values of a group unexpanded.

Tiles of keys that the rules of attention_reach hide from all of a block's queries are not read. By
position they lie before and after those of the loop, and only tiles at an edge compare positions.
Padding, segments and a bool mask are looked at tile by tile, before keys and values are.
"""

from __future__ import annotations

import math

import cuda.tile as ct

from tile_backend.lowering.kernels.attention_loop import (
    FILLED,
    GIVES_MEAN,
    GIVES_ZERO,
    beginning,
    fold_in,
    load_values,
    store_log_sum_exp,
    with_means,
)
from tile_backend.lowering.kernels.attention_reach import (
    CAUSAL,
    CHUNK,
    SEGMENTS,
    WINDOW,
    at,
    first_position,
    hide_by_data,
    hide_by_position,
    keys_seen_from,
    numbers,
    some,
    tiles_seen,
)
from tile_backend.lowering.kernels.attention_scores import (
    ADDED,
    ATTEND,
    ZERO,
    bounded,
    load_keys,
    load_mask,
    product,
)


def attention(
    q: ct.Array,
    k: ct.Array,
    v: ct.Array,
    mask: ct.Array,
    padding: ct.Array,
    segments: ct.Array,
    offset: ct.Array,
    sinks: ct.Array,
    out: ct.Array,
    lse: ct.Array,
    scale: float,
    cap: float,
    fill: float,
    start: int,
    window: int,
    chunk: int,
    GROUP: ct.Constant[int],
    PACKED: ct.Constant[bool],
    ROWS: ct.Constant[int],
    COLS: ct.Constant[int],
    WIDTH: ct.Constant[int],
    VALUE_WIDTH: ct.Constant[int],
    RULES: ct.Constant[int],
    MASK: ct.Constant[int],
    MASK_ROWS: ct.Constant[int],
    SINKS: ct.Constant[bool],
    CAPPED: ct.Constant[bool],
    EMPTY: ct.Constant[int],
    MAY_BE_EMPTY: ct.Constant[bool],
    LSE: ct.Constant[bool],
    UNIT: ct.Constant[int],
    LATENCY: ct.Constant[int],
) -> None:
    """Grid (query tiles, heads, batch). WIDTH, VALUE_WIDTH: head widths padded to powers of two.

    Longer than 40 lines because the running state of a row passes through all of it.

    GROUP query heads share one head of k and v. PACKED: rows are heads of a group, all at one
    position. An array that RULES, MASK, SINKS or LSE does not ask for is anything. scale turns
    products into scores, or, if CAPPED, into what `bounded` takes, and cap that into scores.
    """
    # The last tiles have the most keys under a causal mask: they start first.
    tile = ct.num_blocks(0) - 1 - ct.bid(0) if (RULES & CAUSAL) != 0 else ct.bid(0)
    head = ct.bid(1)
    batch = ct.bid(2)
    keys = k.shape[2]
    first = first_position(offset, start, RULES)
    positions = first + numbers(0 if PACKED else tile, ROWS, 1 if PACKED else q.shape[2])[:, None]
    lowest = first if PACKED else first + tile * ROWS
    highest = first if PACKED else first + min(tile * ROWS + ROWS, q.shape[2]) - 1
    own = at(segments, batch, positions) if (RULES & SEGMENTS) != 0 else 0
    begin, middle, stop, after_whole = tiles_seen(
        *(lowest, highest, keys, window, chunk, padding, segments, own, batch),
        *(COLS, RULES, EMPTY == FILLED),
    )

    queries = ct.load(q, (batch, head, tile, 0), (1, 1, ROWS, WIDTH), padding_mode=ZERO)
    queries = queries.reshape((ROWS, WIDTH))
    peak, mass, total = beginning(sinks, head, tile, ROWS, VALUE_WIDTH, SINKS, UNIT)
    # The tiles before the middle have a loop of their own, so that the compiler can take the
    # comparison of positions out of the one in the middle.
    for left in ct.static_iter((True, False) if (RULES & (WINDOW | CHUNK)) != 0 else (False,)):
        for j in range(begin if left else middle, middle if left else stop):
            found, live = 0, True
            if MASK == ATTEND:
                found = load_mask(mask, batch, head, tile, j, MASK_ROWS, COLS)
                if MASK_ROWS > 1 and EMPTY != FILLED:
                    live = some(found)
            if live:
                key = load_keys(k, batch, head // GROUP, j, WIDTH, COLS, LATENCY)
                scores = product(queries, key, ct.zeros((ROWS, COLS), ct.float32)) * scale
                if CAPPED:
                    scores = bounded(scores, UNIT) * cap
                hidden = fill if EMPTY == FILLED else -math.inf
                if MASK == ADDED:
                    found = load_mask(mask, batch, head, tile, j, MASK_ROWS, COLS)
                    scores = scores + found.astype(ct.float32)
                if MASK == ATTEND:
                    scores = ct.where(found, scores, hidden)
                scores = hide_by_data(scores, hidden, padding, segments, own, batch, j, RULES)
                if left or j >= after_whole:
                    low, high = keys_seen_from(positions, keys, window, chunk, RULES)
                    scores = hide_by_position(scores, hidden, j, low, high, keys, EMPTY == FILLED)
                value = load_values(v, batch, head // GROUP, j, COLS, VALUE_WIDTH, LATENCY)
                peak, mass, total = fold_in(scores, value, peak, mass, total, MAY_BE_EMPTY, UNIT)

    if LSE:
        store_log_sum_exp(lse, peak, mass, batch, head, tile, MASK, EMPTY, UNIT)
    if MAY_BE_EMPTY and EMPTY == GIVES_MEAN:
        row = tile * ROWS + ct.arange(ROWS, dtype=ct.int32)[:, None]
        if some((mass == 0.0) & (row < q.shape[2])):
            total, mass = with_means(total, mass, v, batch, head // GROUP, COLS, VALUE_WIDTH)
    result = total / mass
    if MAY_BE_EMPTY and EMPTY == GIVES_ZERO:
        result = ct.where(mass == 0.0, 0.0, result)
    result = result.astype(out.dtype).reshape((1, 1, ROWS, VALUE_WIDTH))
    ct.store(out, (batch, head, tile, 0), result)
