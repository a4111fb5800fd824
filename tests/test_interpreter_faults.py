"""What the interpreter checks beyond values: each fault with kernel, line, words, in any order."""

from __future__ import annotations

import linecache
from typing import Any

import cuda.tile as ct
import pytest
import torch

from tests.interpreter_mistaken_kernels import ZERO, adds
from tests.interpreter_mistakes import MISTAKES
from tile_backend.lowering.interpreter.faults import FaultKind, KernelFault
from tile_backend.lowering.interpreter.launch import interpret
from tile_backend.lowering.kernels.signature import signature_for

ORDERS: tuple[dict[str, Any], ...] = (
    {},
    {"blocks_at_once": 1},
    {"blocks_at_once": 1, "reverse": True},
)


@pytest.mark.parametrize("order", ORDERS, ids=("at once", "one by one", "reversed"))
@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_found_in_any_order(name: str, order: dict[str, Any]) -> None:
    mistake = MISTAKES[name]
    grid, kernel, args = mistake.launch()
    with pytest.raises(KernelFault) as e:
        interpret(grid, kernel, args, **order)
    assert e.value.kind is mistake.kind
    assert all(word in str(e.value) for word in mistake.words), str(e.value)
    assert e.value.source is not None
    line = linecache.getline(e.value.source.path, e.value.source.line)
    assert mistake.line in line, f"{e.value} blames {line!r}"
    assert str(e.value).startswith(f"kernel {e.value.kernel} at interpreter_mistaken_kernels.py:")


@ct.kernel
def masks_padding(x: ct.Array, out: ct.Array) -> None:
    """Undetermined elements that are selected away, clipped by a store, or behind `and`."""
    row = ct.bid(0)
    tile = ct.load(x, (row, 0), (1, 8))
    inside = ct.arange(8, dtype=ct.int32)[None, :] < x.shape[1]
    positive = inside & (tile > 0)
    kept = ct.where(inside, tile, 0.0) + positive.astype(ct.float32)
    ct.store(out, (row, 0), tile * 2 + ct.sum(kept, axis=1, keepdims=True))


def test_padding_that_reaches_nothing_is_fine() -> None:
    x, out = torch.randn(3, 5), torch.zeros(3, 5)
    interpret((3,), masks_padding, (x, out))
    expected = x * 2 + (x + (x > 0)).sum(1, keepdim=True)
    torch.testing.assert_close(out, expected)


@ct.kernel
def agrees(x: ct.Array, out: ct.Array) -> None:
    ct.store(out, (0,), ct.load(x, (0,), (4,), padding_mode=ZERO))


def test_blocks_that_write_the_same_are_fine() -> None:
    x, out = torch.randn(4), torch.zeros(4)
    interpret((5,), agrees, (x, out))
    assert torch.equal(x, out)


@ct.kernel
def halves(x: ct.Array) -> None:
    at = (ct.bid(0),)
    ct.store(x, at, ct.load(x, at, (2,)) / 2)


def test_one_array_for_reading_and_writing_is_fine() -> None:
    x = torch.arange(8.0)
    interpret((4,), halves, (x,))
    assert torch.equal(x, torch.arange(8.0) / 2)


def test_interleaved_halves_of_one_storage_are_apart() -> None:
    packed = torch.arange(12.0)
    x, y, out = packed[0::3], packed[1::3], packed[2::3]
    expected = x + y
    interpret((4,), adds, (x, y, out))
    assert torch.equal(out, expected)


def test_arrays_that_are_only_read_may_be_the_same() -> None:
    x, out = torch.arange(4.0), torch.zeros(4)
    interpret((4,), adds, (x, x, out))
    assert torch.equal(out, 2 * x)


def test_promises_of_a_signature_are_checked() -> None:
    """A kernel compiled for aligned tensors, as a store may hold it, launched with others."""
    aligned = [torch.zeros(32) for _ in range(3)]
    signature = signature_for(adds, tuple(aligned))
    interpret((32,), adds, tuple(aligned), signature=signature)
    shifted = torch.zeros(33)[1:]
    words = r"`x_0` is promised to be divisible by 16; an address is 4 beyond a multiple of it"
    with pytest.raises(KernelFault, match=words) as e:
        interpret((32,), adds, (shifted, *aligned[1:]), signature=signature)
    assert e.value.kind is FaultKind.DIVISIBILITY
    short = [tensor[:31] for tensor in aligned]
    with pytest.raises(KernelFault, match="promised to be divisible by 16; 31 is not"):
        interpret((31,), adds, tuple(short), signature=signature)


def test_the_line_is_that_of_the_kernel_and_its_callers() -> None:
    grid, kernel, args = 1, calls_a_helper, (torch.ones(5), torch.zeros(1))
    with pytest.raises(KernelFault, match=r"test_interpreter_faults\.py:\d+ \(called from") as e:
        interpret((grid,), kernel, args)
    assert e.value.source is not None
    assert e.value.source.calls


def summed(x: ct.Array, out: ct.Array) -> None:
    ct.store(out, (0,), ct.sum(ct.load(x, (0,), (8,)), keepdims=True))


@ct.kernel
def calls_a_helper(x: ct.Array, out: ct.Array) -> None:
    summed(x, out)
