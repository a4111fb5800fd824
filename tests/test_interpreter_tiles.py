"""Ops on whole tiles in the interpreter: shapes, reductions, scans, matrix products.

Every kernel runs on several blocks at once, whose tiles differ, and on one block at a time.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import cuda.tile as ct
import pytest
import torch

from tile_backend.lowering.interpreter.faults import FaultKind, KernelFault
from tile_backend.lowering.interpreter.launch import interpret

BLOCKS = 3


def tilewise(
    fn: Callable[..., Any], inner: tuple[int, ...], outer: tuple[int, ...], number: int
) -> Any:
    """A kernel: tile b of out, of shape `outer`, is fn(b, tile b of each of `number` inputs)."""
    one, wide = (1, *inner), (1, *outer)
    at, to = (0,) * len(inner), (0,) * len(outer)

    def alone(x: ct.Array, out: ct.Array) -> None:
        block = ct.bid(0)
        result = fn(block, ct.load(x, (block, *at), one).reshape(inner))
        ct.store(out, (block, *to), ct.reshape(ct.astype(result, out.dtype), wide))

    def pair(x: ct.Array, y: ct.Array, out: ct.Array) -> None:
        block = ct.bid(0)
        first = ct.load(x, (block, *at), one).reshape(inner)
        second = ct.load(y, (block, *at), one).reshape(inner)
        result = fn(block, first, second)
        ct.store(out, (block, *to), ct.reshape(ct.astype(result, out.dtype), wide))

    return ct.kernel(alone if number == 1 else pair)


def run(
    fn: Callable[..., Any], *tiles: torch.Tensor, outer: tuple[int, ...], dtype: Any = None
) -> torch.Tensor:
    """tiles: [BLOCKS, *inner] each."""
    kernel = tilewise(fn, tuple(tiles[0].shape[1:]), outer, len(tiles))
    results = []
    for at_once in (BLOCKS, 1):
        out = torch.zeros(BLOCKS, *outer, dtype=dtype or tiles[0].dtype)
        interpret((BLOCKS,), kernel, (*tiles, out), blocks_at_once=at_once)
        results.append(out)
    both = [found.nan_to_num(77) for found in results]
    assert torch.equal(*both), "block by block gives something else"
    return results[0]


def whole(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Small whole numbers, whose sums and products are exact."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(-4, 5, (BLOCKS, *shape), generator=generator).to(dtype)


def permuted(block: Any, x: Any) -> Any:
    return ct.permute(x, (2, 0, 1))


def broadcast(block: Any, x: Any) -> Any:
    return ct.broadcast_to(x, (4, 8)) + block


def second_half(block: Any, x: Any) -> Any:
    return ct.extract(x, (0, 1), (4, 4))


def part_of_the_block(block: Any, x: Any) -> Any:
    return ct.extract(x, (block, 0), (1, 8))


def with_ones(block: Any, x: Any) -> Any:
    return ct.cat((x, ct.ones((4, 8), ct.float32)), axis=1)


def with_a_part_replaced(block: Any, x: Any) -> Any:
    return ct.insert(x, (block, 1), ct.full((1, 4), 9.0, ct.float32))


def test_shapes_are_changed() -> None:
    x = whole(2, 4, 8)
    assert torch.equal(run(permuted, x, outer=(8, 2, 4)), x.permute(0, 3, 1, 2))
    row = whole(1, 8)
    number = torch.arange(BLOCKS)[:, None, None]
    assert torch.equal(run(broadcast, row, outer=(4, 8)), row.expand(-1, 4, 8) + number)
    y = whole(4, 8)
    assert torch.equal(run(second_half, y, outer=(4, 4)), y[:, :, 4:])
    by_block = torch.stack([y[b, b : b + 1] for b in range(BLOCKS)])
    assert torch.equal(run(part_of_the_block, y, outer=(1, 8)), by_block)
    ones = torch.ones(BLOCKS, 4, 8)
    assert torch.equal(run(with_ones, y, outer=(4, 16)), torch.cat((y, ones), 2))
    replaced = y.clone()
    for b in range(BLOCKS):
        replaced[b, b, 4:] = 9.0
    assert torch.equal(run(with_a_part_replaced, y, outer=(4, 8)), replaced)


def beyond(block: Any, x: Any) -> Any:
    return ct.extract(x, (block + 2, 0), (1, 8))


def test_a_part_outside_its_tile_is_a_fault() -> None:
    with pytest.raises(KernelFault, match=r"an index into 4 parts .* is outside \(block") as e:
        run(beyond, whole(4, 8), outer=(1, 8))
    assert e.value.kind is FaultKind.OUT_OF_BOUNDS
    assert e.value.block == (2, 0, 0)


def total(block: Any, x: Any) -> Any:
    return ct.sum(x, axis=1)


def product(block: Any, x: Any) -> Any:
    return ct.prod(x, axis=0)


def most(block: Any, x: Any) -> Any:
    return ct.max(x, axis=1)


def least(block: Any, x: Any) -> Any:
    return ct.min(x, axis=(0, 1))


def least_or_nan(block: Any, x: Any) -> Any:
    return ct.min(x, axis=(0, 1), propagate_nan=True)


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16, torch.int32, torch.int8), ids=str)
def test_simple_reductions(dtype: torch.dtype) -> None:
    x = whole(4, 8, dtype=dtype)
    assert torch.equal(run(total, x, outer=(4,)), x.sum(2).to(dtype))
    assert torch.equal(run(product, x, outer=(8,)), x.prod(1).to(dtype))
    assert torch.equal(run(most, x, outer=(4,)), x.amax(2))
    assert torch.equal(run(least, x, outer=()), x.amin((1, 2)))


def test_reductions_ignore_nan_unless_it_propagates() -> None:
    x = whole(4, 8)
    x[1, 2, 3] = torch.nan
    assert torch.equal(run(least, x, outer=()), x.nan_to_num(9).amin((1, 2)))
    assert run(least_or_nan, x, outer=()).isnan().tolist() == [False, True, False]


def test_sums_are_in_the_tiles_own_type() -> None:
    """What a float32 accumulator would hide: 256 + 1 is 256 in bfloat16."""
    x = torch.zeros(BLOCKS, 1, 8, dtype=torch.bfloat16)
    x[:, :, 0], x[:, :, 1:] = 256.0, 1.0
    assert (run(total, x, outer=(1,)) < x.float().sum(2).bfloat16()).all()


def last_of_two(left: Any, right: Any) -> Any:
    """Associative, and the order matters."""
    return ct.where(right == 0, left, right)


def last_nonzero(block: Any, x: Any) -> Any:
    return ct.reduce(x, 1, last_of_two, 0.0)


def so_far(block: Any, x: Any) -> Any:
    return ct.scan(x, 1, last_of_two, 0.0)


def shifted_sum(block: Any, x: Any) -> Any:
    """The body reads a value of its block."""
    offset = block * 1.0

    def body(left: Any, right: Any) -> Any:
        return left + right + offset

    return ct.reduce(x, 1, body, 0.0)


def test_any_other_body_keeps_the_order_and_sees_its_block() -> None:
    x = whole(4, 8)
    last = [[[v for v in row if v != 0][-1] for row in tile] for tile in x.tolist()]
    assert run(last_nonzero, x, outer=(4,)).tolist() == last
    scanned = run(so_far, x, outer=(4, 8))
    assert scanned[:, :, -1].tolist() == last
    assert torch.equal(scanned[:, :, 0], x[:, :, 0])
    number = torch.arange(BLOCKS)[:, None]
    assert torch.equal(run(shifted_sum, x, outer=(4,)), x.sum(2) + 7 * number)


def running(block: Any, x: Any) -> Any:
    return ct.cumsum(x, axis=1)


def running_back(block: Any, x: Any) -> Any:
    return ct.cumsum(x, axis=1, reverse=True)


def running_product(block: Any, x: Any) -> Any:
    return ct.cumprod(x, axis=0)


def place_of_the_largest(block: Any, x: Any) -> Any:
    return ct.argmax(x, axis=1)


def test_scans_and_places() -> None:
    x = whole(4, 8)
    assert torch.equal(run(running, x, outer=(4, 8)), x.cumsum(2))
    assert torch.equal(run(running_back, x, outer=(4, 8)), x.flip(2).cumsum(2).flip(2))
    assert torch.equal(run(running_product, x, outer=(4, 8)), x.cumprod(1))
    found = run(place_of_the_largest, x, outer=(4,), dtype=torch.int32)
    assert found.tolist() == [[row.index(max(row)) for row in tile] for tile in x.tolist()]


def times(block: Any, x: Any, y: Any) -> Any:
    return ct.mma(x, y, ct.zeros((8, 8), ct.float32))


def times_in_half(block: Any, x: Any, y: Any) -> Any:
    return ct.mma(x, y, ct.full((8, 8), 0.5, ct.float16))


def integer_times(block: Any, x: Any, y: Any) -> Any:
    return ct.mma(x, y, ct.full((8, 8), 1, ct.int32))


def batches(block: Any, x: Any, y: Any) -> Any:
    return ct.matmul(x, y)


def tf32_times(block: Any, x: Any, y: Any) -> Any:
    return ct.mma(x.astype(ct.tfloat32), y.astype(ct.tfloat32), ct.zeros((8, 8), ct.float32))


def shared_times(block: Any, x: Any, y: Any) -> Any:
    """One operand is the same for all blocks."""
    return ct.mma(x, ct.full((8, 8), 2.0, ct.float32), y)


@pytest.mark.parametrize(
    "dtype", (torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn), ids=str
)
def test_matrix_products(dtype: torch.dtype) -> None:
    x, y = whole(8, 8, dtype=dtype), whole(8, 8, dtype=dtype).flip(0)
    expected = x.float() @ y.float()
    assert torch.equal(run(times, x, y, outer=(8, 8), dtype=torch.float32), expected)


def test_matrix_products_of_other_types() -> None:
    x, y = whole(8, 8), whole(8, 8).flip(0)
    assert torch.equal(run(shared_times, x, y, outer=(8, 8)), x @ torch.full((8, 8), 2.0) + y)
    half = run(times_in_half, x.half(), y.half(), outer=(8, 8))
    assert torch.equal(half, (x @ y + 0.5).half())
    small = run(integer_times, x.char(), y.char(), outer=(8, 8), dtype=torch.int32)
    assert torch.equal(small, (x @ y).int() + 1)
    exact = run(tf32_times, x * (1 + 2.0**-13), y, outer=(8, 8))
    assert torch.equal(exact, x @ y), "13 bits of the mantissa are dropped"
    a, b = whole(2, 8, 8), whole(2, 8, 8).flip(0)
    assert torch.equal(run(batches, a, b, outer=(2, 8, 8)), a @ b)


@ct.kernel
def scaled(x: ct.Array, sx: ct.Array, y: ct.Array, sy: ct.Array, out: ct.Array) -> None:
    product = ct.mma_scaled(
        ct.load(x, (0, 0), (16, 64)),
        ct.load(sx, (0, 0), (16, 2)),
        ct.load(y, (0, 0), (64, 16)),
        ct.load(sy, (0, 0), (2, 16)),
        ct.ones((16, 16), ct.float32),
    )
    ct.store(out, (0, 0), product)


def test_scaled_matrix_product() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(*s, generator=generator) for s in ((16, 64), (64, 16)))
    x, y = x.to(torch.float8_e4m3fn), y.to(torch.float8_e4m3fn)
    sx, sy = (
        torch.randint(-2, 3, s, generator=generator).float().exp2() for s in ((16, 2), (2, 16))
    )
    out = torch.zeros(16, 16)
    scale = torch.float8_e8m0fnu
    interpret((1,), scaled, (x, sx.to(scale), y, sy.to(scale), out))
    left = x.float() * sx.repeat_interleave(32, 1)
    assert torch.equal(out, 1 + left @ (y.float() * sy.repeat_interleave(32, 0)))


def joined_words(block: Any, x: Any) -> Any:
    return operator.add(x, ct.arange(8, dtype=ct.float32)[None, :])


def test_ranges() -> None:
    x = whole(4, 8)
    assert torch.equal(run(joined_words, x, outer=(4, 8)), x + torch.arange(8))
