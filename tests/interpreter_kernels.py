"""Small cuTile kernels for the interpreter's tests: what the language can do, one thing each.

Test material, not tuned kernels. `elementwise(fn)` makes a kernel of a function on tiles.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cuda.tile as ct

Const = ct.Constant
ZERO, NEG_INF = ct.PaddingMode.ZERO, ct.PaddingMode.NEG_INF


def elementwise(fn: Callable[..., Any]) -> Any:
    """A kernel of one block: out = fn(x), or fn(x, y), over N elements; N is a power of two."""

    def one(x: ct.Array, out: ct.Array, N: Const[int]) -> None:
        ct.store(out, (0,), ct.astype(fn(ct.load(x, (0,), (N,))), out.dtype))

    def two(x: ct.Array, y: ct.Array, out: ct.Array, N: Const[int]) -> None:
        ct.store(
            out, (0,), ct.astype(fn(ct.load(x, (0,), (N,)), ct.load(y, (0,), (N,))), out.dtype)
        )

    return {1: ct.kernel(one), 2: ct.kernel(two)}


def add_pairs(
    a_left: ct.Tile, b_left: ct.Tile, a_right: ct.Tile, b_right: ct.Tile
) -> tuple[ct.Tile, ct.Tile]:
    """Body of a two-operand reduction: all left operands first. (The IR interleaves them.)"""
    return a_left + a_right, b_left + b_right


@ct.kernel
def moments(x: ct.Array, total: ct.Array, squares: ct.Array, BLOCK: Const[int]) -> None:
    """Sum and sum of squares of each row, in one tuple reduction."""
    row = ct.bid(0)
    v = ct.load(x, (row, 0), (1, BLOCK), padding_mode=ZERO)
    sums, sums_of_squares = ct.reduce((v, v * v), 1, add_pairs, (0.0, 0.0))
    ct.store(total, (row,), sums)
    ct.store(squares, (row,), sums_of_squares)


@ct.kernel
def row_argmax(x: ct.Array, best: ct.Array, where: ct.Array, BLOCK: Const[int]) -> None:
    row = ct.bid(0)
    v = ct.load(x, (row, 0), (1, BLOCK), padding_mode=NEG_INF)
    ct.store(where, (row,), ct.argmax(v, axis=1))
    ct.store(best, (row,), ct.max(v, axis=1))


@ct.kernel
def embedding(ids: ct.Array, table: ct.Array, out: ct.Array, BLOCK: Const[int]) -> None:
    """Element addressing: a scalar gather, then a bounds-checked row gather and scatter."""
    row = ct.bid(0)
    column = ct.arange(BLOCK, dtype=ct.int32)
    ct.scatter(out, (row, column), ct.gather(table, (ct.gather(ids, row), column)))


@ct.kernel
def paged(
    pages: ct.Array, table: ct.Array, out: ct.Array, ROWS: Const[int], BLOCK: Const[int]
) -> None:
    """Advanced indexing: ROWS listed pages, BLOCK elements of each, loaded and stored back."""
    block = ct.bid(0)
    listed = ct.load(table, (block,), (ROWS,))
    part = ct.Slice(4, BLOCK)
    tile = ct.load_advanced_indexing(pages, (listed, part), padding_mode=ZERO)
    rows = block * ROWS + ct.arange(ROWS, dtype=ct.int32)
    ct.store_advanced_indexing(out, (rows, ct.Slice(0, BLOCK)), tile)


@ct.kernel
def matmul_persistent(
    a: ct.Array, b: ct.Array, c: ct.Array, TM: Const[int], TN: Const[int], TK: Const[int]
) -> None:
    """Fewer blocks than output tiles, and tiled views."""
    a_tiles = a.tiled_view((TM, TK), padding_mode=ZERO)
    b_tiles = b.tiled_view((TK, TN), padding_mode=ZERO)
    columns = ct.num_tiles(c, 1, (TM, TN))
    for n in range(ct.bid(0), ct.num_tiles(c, 0, (TM, TN)) * columns, ct.num_blocks(0)):
        total = ct.zeros((TM, TN), ct.float32)
        for k in range(a_tiles.num_tiles(1)):
            total = ct.mma(a_tiles.load((n // columns, k)), b_tiles.load((k, n % columns)), total)
        ct.store(c, (n // columns, n % columns), total.astype(c.dtype))


@ct.kernel
def matmul_split_k(
    a: ct.Array, b: ct.Array, c: ct.Array, TM: Const[int], TN: Const[int], TK: Const[int]
) -> None:
    """Blocks along z share an output tile and add to it atomically."""
    i, j, first = ct.bid(0), ct.bid(1), ct.bid(2)
    total = ct.zeros((TM, TN), ct.float32)
    for k in range(first, ct.cdiv(a.shape[1], TK), ct.num_blocks(2)):
        left = ct.load(a, (i, k), (TM, TK), padding_mode=ZERO)
        right = ct.load(b, (k, j), (TK, TN), padding_mode=ZERO)
        total = ct.mma(left, right, total)
    rows = i * TM + ct.arange(TM, dtype=ct.int32)[:, None]
    columns = j * TN + ct.arange(TN, dtype=ct.int32)[None, :]
    ct.atomic_add(c, (rows, columns), total)


@ct.kernel
def divergent(x: ct.Array, out: ct.Array, limit: int, BLOCK: Const[int]) -> None:
    """Every block takes another path: while and break, nested if, a data-dependent trip count."""
    block = ct.bid(0)
    n = block
    steps = 0
    while n > 0:
        n = n // 2 if n % 2 == 0 else 3 * n + 1
        steps = steps + 1
        if steps >= limit:
            break
    v = ct.load(x, (block,), (BLOCK,), padding_mode=ZERO)
    if block % 3 == 0:
        v = v * 2.0
    elif block % 3 == 1:
        for i in range(block % 5):
            v = v + i
    else:
        v = -v
    ct.store(out, (block,), v + steps)


@ct.kernel
def leaves_early(x: ct.Array, out: ct.Array, BLOCK: Const[int]) -> None:
    """Odd blocks return at once, others from inside a loop or after it."""
    block = ct.bid(0)
    if block % 2 == 1:
        return
    v = ct.load(x, (block,), (BLOCK,))
    for i in range(8):
        if i == block:
            ct.store(out, (block,), v + i)
            return
        if i % 2 == 0:
            continue
        v = v + 1.0
    ct.store(out, (block,), v)


@ct.kernel
def scale_segments(x: ct.Array, offsets: ct.Array, out: ct.Array, ROWS: Const[int]) -> None:
    """Ragged data: block s scales rows offsets[s] to offsets[s + 1] by s + 1."""
    segment = ct.bid(0)
    start = ct.gather(offsets, segment)
    stop = ct.gather(offsets, segment + 1)
    source = x.slice(axis=0, start=start, stop=stop)
    target = out.slice(axis=0, start=start, stop=stop)
    for i in range(ct.cdiv(stop - start, ROWS)):
        tile = ct.load(source, (i, 0), (ROWS, 8), padding_mode=ZERO)
        ct.store(target, (i, 0), tile * (segment + 1))


@ct.kernel
def overlapping(x: ct.Array, out: ct.Array, BLOCK: Const[int], STEP: Const[int]) -> None:
    """Tiles that overlap: out[i] is the sum of BLOCK elements from i * STEP on."""
    view = x.tiled_view(BLOCK, padding_mode=ZERO, traversal_steps=STEP)
    ct.store(out, (ct.bid(0),), ct.sum(view.load(ct.bid(0)), keepdims=True))


@ct.kernel
def histogram(x: ct.Array, counts: ct.Array, BLOCK: Const[int]) -> None:
    """Atomic additions that meet."""
    v = ct.load(x, (ct.bid(0),), (BLOCK,))
    ct.atomic_add(counts, v, 1)


@ct.kernel
def sum_of_list(arrays: list[ct.Array], out: ct.Array, BLOCK: Const[int]) -> None:
    """Block b sums arrays[b], of its own length, in one of arrays of different lengths."""
    array = arrays[ct.bid(0)]
    total = ct.zeros((BLOCK,), ct.float32)
    for j in range(ct.cdiv(array.shape[0], BLOCK)):
        total = total + ct.load(array, (j,), (BLOCK,), padding_mode=ZERO)
    ct.store(out, (ct.bid(0),), ct.sum(total, keepdims=True))


@ct.kernel
def pair_of(
    pair: tuple[ct.Array, ct.Array], factors: tuple[float, int], out: ct.Array, BLOCK: Const[int]
) -> None:
    """Tuple arguments, of arrays and of scalars."""
    x, y = pair
    at = (ct.bid(0),)
    ct.store(out, at, ct.load(x, at, (BLOCK,)) * factors[0] + ct.load(y, at, (BLOCK,)) * factors[1])


@ct.kernel
def last_block_sums(
    x: ct.Array, partial: ct.Array, counter: ct.Array, out: ct.Array, BLOCK: Const[int]
) -> None:
    """Partial sums, and the block that finishes last adds them up: ordered by an atomic counter."""
    block = ct.bid(0)
    ct.store(partial, (block,), ct.sum(ct.load(x, (block,), (BLOCK,)), keepdims=True))
    done = ct.atomic_add(counter, 0, 1)
    if done == ct.num_blocks(0) - 1:
        everything = ct.load(partial, (0,), (16,), padding_mode=ZERO)
        ct.store(out, (0,), ct.sum(everything, keepdims=True))
