"""attention_reach: intervals of keys and of queries are what `_attention_math.seen` says."""

from __future__ import annotations

import itertools

import cuda.tile as ct
import pytest
import torch

from tile_backend.lowering.interpreter.launch import interpret
from tile_backend.lowering.kernels.attention_reach import (
    CAUSAL,
    CHUNK,
    OFFSET,
    WINDOW,
    first_position,
    keys_seen_from,
    numbers,
    queries_that_see,
    tiles_between,
    whole_tiles_between,
    within,
)
from tile_backend.patterns._attention_math import seen

QUERIES, KEYS, SIZE = 37, 70, 16
TILES = -(-QUERIES // SIZE), -(-KEYS // SIZE)


@ct.kernel
def probe(
    offset: ct.Array,
    of_queries: ct.Array,
    of_keys: ct.Array,
    touched: ct.Array,
    start: int,
    window: int,
    chunk: int,
    QUERIES: ct.Constant[int],
    KEYS: ct.Constant[int],
    SIZE: ct.Constant[int],
    RULES: ct.Constant[int],
) -> None:
    """One block for each tile of queries: what it sees by query, by key, and by tile.

    touched: 1 for a tile of keys that is in the range, 2 for one that needs no comparison.
    """
    tile = ct.bid(0)
    first = first_position(offset, start, RULES)
    lowest = first + tile * SIZE
    highest = first + min(tile * SIZE + SIZE, QUERIES) - 1
    early = keys_seen_from(lowest, KEYS, window, chunk, RULES)
    late = keys_seen_from(highest, KEYS, window, chunk, RULES)
    begin, stop = tiles_between(early[0], late[1], SIZE)
    whole, after_whole = whole_tiles_between(late[0], early[1], SIZE)
    row = numbers(tile, SIZE, QUERIES)[:, None]
    keys_from, keys_to = keys_seen_from(first + row, KEYS, window, chunk, RULES)
    for j in range(ct.cdiv(KEYS, SIZE)):
        column = j * SIZE + ct.arange(SIZE, dtype=ct.int32)[None, :]
        queries_from, queries_to = queries_that_see(column, first, QUERIES, window, chunk, RULES)
        everywhere = ct.full((SIZE, SIZE), True, ct.bool_)
        by_query = everywhere & within(column, keys_from, keys_to)
        by_key = everywhere & within(row, queries_from, queries_to) & (column < KEYS)
        ct.store(of_queries, (tile, j), by_query.astype(ct.int32))
        ct.store(of_keys, (tile, j), by_key.astype(ct.int32))
        state = 0
        if (j >= begin) & (j < stop):
            state = 1
            if (j >= whole) & (j < after_whole):
                state = 2
        ct.store(touched, (tile, j), ct.full((1, 1), 1, ct.int32) * state)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("causal", (False, True))
@pytest.mark.parametrize("chunk", (None, 1, 7, 16, 1000))
@pytest.mark.parametrize("window", (None, 0, 1, 9, 40, 1000))
def test_every_view_of_the_rules_agrees(
    window: int | None, chunk: int | None, causal: bool
) -> None:
    rules = CAUSAL * causal | WINDOW * (window is not None) | CHUNK * (chunk is not None) | OFFSET
    q, k = torch.zeros(1, 1, QUERIES, 1), torch.zeros(1, 1, KEYS, 1)
    for start, offset in itertools.product((0, 3, -20), (0, 20, 60)):
        at = torch.tensor([offset])
        by_query, by_key, touched = (torch.zeros(48, 80, dtype=torch.int32) for _ in range(3))
        arguments = (at, by_query, by_key, touched, start, window or 0, chunk or 1)
        interpret((TILES[0], 1, 1), probe, (*arguments, QUERIES, KEYS, SIZE, rules))
        given = {"window": window, "chunk": chunk, "start": start, "offset": at}
        visible = seen(q, k, is_causal=causal, **given)
        wanted = torch.ones(QUERIES, KEYS, dtype=torch.bool) if visible is None else visible
        assert torch.equal(by_query[:QUERIES, :KEYS].bool(), wanted)
        assert torch.equal(by_key[:QUERIES, :KEYS].bool(), wanted)
        for i, j in itertools.product(*map(range, TILES)):
            block = wanted[i * SIZE : (i + 1) * SIZE, j * SIZE : (j + 1) * SIZE]
            state = int(touched[i, j])
            assert state == 2 if block.all() and block.shape[1] == SIZE else state < 2
            assert state or not block.any()
