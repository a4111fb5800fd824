"""Kernels with one mistake each, for `interpreter_mistakes`."""

from __future__ import annotations

import cuda.tile as ct

ZERO = ct.PaddingMode.ZERO


@ct.kernel
def forgets_padding(x: ct.Array, out: ct.Array) -> None:
    tile = ct.load(x, (ct.bid(0), 0), (1, 8))
    ct.store(out, (ct.bid(0),), ct.sum(tile, axis=1))


@ct.kernel
def hides_padding_in_a_maximum(x: ct.Array, out: ct.Array) -> None:
    """A maximum ignores NaN: the value alone would not show it."""
    tile = ct.load(x, (ct.bid(0), 0), (1, 8))
    ct.store(out, (ct.bid(0),), ct.max(tile, axis=1))


@ct.kernel
def multiplies_padding_by_zero(x: ct.Array, out: ct.Array) -> None:
    tile = ct.load(x, (ct.bid(0), 0), (1, 8))
    kept = ct.arange(8, dtype=ct.int32)[None, :] < x.shape[1]
    ct.store(out, (ct.bid(0),), ct.sum(tile * kept.astype(ct.float32), axis=1))


@ct.kernel
def branches_on_padding(x: ct.Array, out: ct.Array) -> None:
    last = ct.extract(ct.load(x, (ct.bid(0), 0), (1, 8)), (0, 7), (1, 1)).item()
    if last > 0:
        ct.store(out, (ct.bid(0),), ct.ones((1,), ct.float32))


@ct.kernel
def carries_padding_through_a_loop(x: ct.Array, out: ct.Array) -> None:
    total = ct.zeros((1, 8), ct.float32)
    for j in range(2):
        total = total + ct.load(x, (ct.bid(0), j), (1, 8))
    ct.store(out, (ct.bid(0),), ct.sum(total, axis=1))


@ct.kernel
def multiplies_padded_matrices(x: ct.Array, out: ct.Array) -> None:
    tile = ct.load(x, (0, 0), (8, 8))
    ct.store(out, (0, 0), ct.mma(tile, tile, ct.zeros((8, 8), ct.float32)))


@ct.kernel
def indexes_with_padding(ids: ct.Array, out: ct.Array) -> None:
    at = ct.load(ids, (0,), (8,))
    ct.scatter(out, at, ct.ones((8,), ct.float32))


@ct.kernel
def loads_beyond(x: ct.Array, out: ct.Array) -> None:
    tile = ct.load(x, (ct.bid(0) + 1,), (8,), padding_mode=ZERO)
    ct.store(out, (ct.bid(0),), tile)


@ct.kernel
def stores_before(x: ct.Array, out: ct.Array) -> None:
    tile = ct.load(x, (ct.bid(0),), (8,))
    ct.store(out, (ct.bid(0) - 1,), tile)


@ct.kernel
def trusts_the_size(x: ct.Array, out: ct.Array) -> None:
    tile = ct.load(x, (ct.bid(0),), (8,), check_bounds=False)
    ct.store(out, (ct.bid(0),), tile)


@ct.kernel
def gathers_beyond(x: ct.Array, out: ct.Array) -> None:
    at = ct.bid(0) * 8 + ct.arange(8, dtype=ct.int32)
    ct.store(out, (ct.bid(0),), ct.gather(x, at, check_bounds=False))


@ct.kernel
def gathers_beyond_a_row(x: ct.Array, out: ct.Array) -> None:
    """The address is that of an element, in the next row."""
    tile = ct.gather(x, (ct.bid(0), ct.arange(8, dtype=ct.int32)), check_bounds=False)
    ct.store(out, (ct.bid(0),), ct.sum(tile, keepdims=True))


@ct.kernel
def reads_raw_memory_beyond(x: ct.Array, out: ct.Array) -> None:
    at = ct.bid(0) * 8 + ct.arange(8, dtype=ct.int32)
    memory = x.get_raw_memory()
    ct.store(out, (ct.bid(0),), memory.load_offset(at))


@ct.kernel
def slices_beyond(x: ct.Array, out: ct.Array) -> None:
    part = x.slice(axis=0, start=ct.bid(0) * 8, stop=ct.bid(0) * 8 + 8)
    ct.store(out, (ct.bid(0),), ct.load(part, (0,), (8,)))


@ct.kernel
def promises_too_much(x: ct.Array, out: ct.Array, n: int) -> None:
    even = ct.assume_divisible_by(n, 4)
    part = x.slice(axis=0, start=0, stop=even)
    ct.store(out, (0,), ct.load(part, (0,), (8,), padding_mode=ZERO))


@ct.kernel
def writes_its_number(x: ct.Array, out: ct.Array) -> None:
    ct.store(out, (ct.bid(0) // 2,), ct.full((1,), 1.0, ct.float32) * ct.bid(0))


@ct.kernel
def scatters_twice(x: ct.Array, out: ct.Array) -> None:
    at = ct.arange(8, dtype=ct.int32) // 2
    ct.scatter(out, at, ct.load(x, (0,), (8,)))


@ct.kernel
def reads_its_neighbour(x: ct.Array, out: ct.Array) -> None:
    block = ct.bid(0)
    ct.store(out, (block,), ct.load(x, (block,), (1,)))
    other = ct.load(out, ((block + 1) % ct.num_blocks(0),), (1,))
    ct.store(x, (block,), other)


@ct.kernel
def shifts_in_place(x: ct.Array) -> None:
    """Reads an element that another block writes, whichever comes first."""
    block = ct.bid(0)
    ct.store(x, (block,), ct.load(x, (block + 1,), (1,)))


@ct.kernel
def adds(x: ct.Array, y: ct.Array, out: ct.Array) -> None:
    at = (ct.bid(0),)
    ct.store(out, at, ct.load(x, at, (1,)) + ct.load(y, at, (1,)))


@ct.kernel
def spins(flag: ct.Array, out: ct.Array) -> None:
    if ct.bid(0) == 0:
        while ct.atomic_add(flag, 0, 0) == 0:
            pass
    ct.store(out, (ct.bid(0),), ct.ones((1,), ct.float32))
