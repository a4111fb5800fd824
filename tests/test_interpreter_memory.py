"""Loads, stores, gathers, atomics, lists and printing in the interpreter."""

from __future__ import annotations

from typing import Annotated, Any

import cuda.tile as ct
import pytest
import torch

from tile_backend.lowering.interpreter.constants import formatted
from tile_backend.lowering.interpreter.faults import FaultKind, KernelFault
from tile_backend.lowering.interpreter.launch import interpret

Const = ct.Constant


@ct.kernel
def copy(x: ct.Array, out: ct.Array, ROWS: Const[int], COLS: Const[int], MODE: Const[int]) -> None:
    modes = (
        ct.PaddingMode.ZERO,
        ct.PaddingMode.NEG_ZERO,
        ct.PaddingMode.NAN,
        ct.PaddingMode.POS_INF,
        ct.PaddingMode.NEG_INF,
    )
    at = (ct.bid(0), ct.bid(1))
    ct.store(out, at, ct.load(x, at, (ROWS, COLS), padding_mode=ct.static_eval(modes[MODE])))


PADDED = (0.0, -0.0, torch.nan, torch.inf, -torch.inf)


@pytest.mark.parametrize("at_once", (1, 4, 100))
@pytest.mark.parametrize("sizes", ((2, 4), (64, 64)), ids=str)
@pytest.mark.parametrize("mode", range(5))
def test_elements_outside_are_padding(mode: int, sizes: tuple[int, int], at_once: int) -> None:
    """In small tiles, copied element by element, and in large ones, copied as boxes."""
    rows, cols = sizes
    x = torch.randn(3 * rows + 1, 2 * cols + 1)
    out = torch.zeros(4 * rows, 3 * cols)
    interpret((4, 3), copy, (x, out, rows, cols, mode), blocks_at_once=at_once)
    expected = torch.full_like(out, PADDED[mode])
    expected[: x.shape[0], : x.shape[1]] = x
    assert torch.equal(out.nan_to_num(77), expected.nan_to_num(77))
    assert torch.equal(out.signbit(), expected.signbit()) or mode == 2


@pytest.mark.parametrize("at_once", (1, 100))
def test_stores_outside_are_dropped_and_strides_are_kept(at_once: int) -> None:
    x = torch.randn(20, 10).t()[::2]  # [5, 20], strides (2, 10)
    base = torch.zeros(7, 50)
    out = base[1:6, 5:45:2]
    interpret((3, 5), copy, (x, out, 2, 4, 0), blocks_at_once=at_once)
    assert torch.equal(out, x)
    assert base.count_nonzero() == x.count_nonzero(), "nothing else is written"


@ct.kernel
def transposed(x: ct.Array, out: ct.Array) -> None:
    tile = ct.load(x, (ct.bid(0), 0), (8, 4), order="F", padding_mode=ct.PaddingMode.ZERO)
    ct.store(out, (ct.bid(0), 0), tile)


def test_order_transposes() -> None:
    x, out = torch.randn(4, 30), torch.zeros(32, 4)
    interpret((4,), transposed, (x, out))
    assert torch.equal(out[:30], x.t())
    assert not out[30:].any()


@ct.kernel
def gathered(x: ct.Array, rows: ct.Array, out: ct.Array) -> None:
    at = ct.load(rows, (ct.bid(0),), (4,))
    mask = at != 2
    tile = ct.gather(x, at, mask=mask, padding_value=7.0)
    ct.scatter(out, ct.bid(0) * 4 + ct.arange(4, dtype=ct.int32), tile, mask=mask)


def test_gather_and_scatter_with_masks_and_bounds() -> None:
    x, out = torch.randn(10), torch.zeros(8)
    rows = torch.tensor([1, -1, 2, 9, 10, 0, 2, 5], dtype=torch.int32)
    interpret((2,), gathered, (x, rows, out))
    padded = torch.cat((x, torch.tensor([7.0])))
    inside = torch.where((rows >= 0) & (rows < 10) & (rows != 2), rows, 10).long()
    expected = torch.where(rows == 2, 0.0, padded[inside])
    assert torch.equal(out, expected)


@ct.kernel
def atomics(
    add: ct.Array, low: ct.Array, high: ct.Array, bits: ct.Array, old: ct.Array, at: ct.Array
) -> None:
    block = ct.bid(0)
    index = ct.load(at, (block,), (4,))
    value = block * 4 + ct.arange(4, dtype=ct.int32)
    ct.atomic_add(add, index, value)
    ct.atomic_min(low, index, value - 6)
    ct.atomic_max(high, index, ct.astype(value - 6, ct.uint32))
    ct.atomic_or(bits, index, 1 << (value % 8))
    ct.store(old, (block,), ct.atomic_xchg(bits, index + 4, value))


@pytest.mark.parametrize("at_once", (1, 3))
def test_atomic_operations_that_meet(at_once: int) -> None:
    at = torch.tensor([0, 1, 2, 3, 0, 0, 0, 1, 3, 3, 2, 2], dtype=torch.int32)
    add, low, bits = (torch.zeros(n, dtype=torch.int32) for n in (4, 4, 8))
    high, old = torch.zeros(4, dtype=torch.int32).view(torch.uint32), torch.zeros(12).int()
    interpret((3,), atomics, (add, low, high, bits, old, at), blocks_at_once=at_once)
    value = torch.arange(12)
    groups = [value[at == i] for i in range(4)]
    assert add.tolist() == [int(g.sum()) for g in groups]
    assert low.tolist() == [min(0, int(g.min()) - 6) for g in groups]
    unsigned = [max((int(v) - 6) % 2**32 for v in g) for g in groups]
    assert [v % 2**32 for v in high.view(torch.int32).tolist()] == unsigned
    assert bits[:4].tolist() == [sum({1 << (int(v) % 8) for v in g}) for g in groups]
    assert bits[4:].tolist() == [int(g[-1]) for g in groups], "the last one stays"
    before = [0, *value.tolist()]
    seen = {int(i): [0, *groups[int(i)].tolist()] for i in range(4)}
    assert old.tolist() == [seen[int(i)].pop(0) for i in at], before


@ct.kernel
def first_wins(lock: ct.Array, winner: ct.Array) -> None:
    block = ct.bid(0)
    if ct.atomic_cas(lock, 0, 0, 1) == 0:
        ct.store(winner, (0,), ct.full((1,), 1, ct.int32) * (block + 1))


def test_compare_and_swap_lets_one_block_through() -> None:
    for reverse, expected in ((False, 1), (True, 5)):
        lock, winner = torch.zeros(1).int(), torch.zeros(1).int()
        interpret((5,), first_wins, (lock, winner), reverse=reverse)
        assert (lock.item(), winner.item()) == (1, expected)


@ct.kernel
def reduced_into_tiles(x: ct.Array, out: ct.Array) -> None:
    out.tiled_view(4).atomic_store_add(0, ct.load(x, (ct.bid(0),), (4,)))


def test_atomic_reductions_of_tiles() -> None:
    x, out = torch.arange(12.0), torch.zeros(3)
    interpret((3,), reduced_into_tiles, (x, out))
    assert torch.equal(out, x.reshape(3, 4).sum(0)[:3]), "what is outside is dropped"


@ct.kernel
def large_and_static(
    x: Annotated[ct.Array, ct.ArrayAnnotation(index_dtype=ct.int64, static_shape_dims=(0,))],
    n: ct.ScalarInt64,
    out: ct.Array,
) -> None:
    sizes = ct.static_eval(x.shape[0])
    ct.store(out, (0,), ct.full((1,), sizes, ct.int64) + n)


def test_annotated_parameters() -> None:
    out = torch.zeros(1, dtype=torch.int64)
    interpret((1,), large_and_static, (torch.zeros(6), 2**40, out))
    assert out.item() == 2**40 + 6


@ct.kernel
def scalars(out: ct.Array, i: int, f: float, flag: bool) -> None:
    ct.store(out, (0,), ct.full((1,), 1.0, ct.float32) * f + i)
    if flag:
        ct.store(out, (1,), ct.full((1,), 5.0, ct.float32))


@ct.kernel
def says(x: ct.Array) -> None:
    tile = ct.load(x, (ct.bid(0),), (2,))
    ct.printf("block %d: %5.1f%%\n", ct.bid(0), tile)


def test_scalars_and_printing(capsys: pytest.CaptureFixture[str]) -> None:
    out = torch.zeros(2)
    interpret((1,), scalars, (out, 3, 0.5, True))
    assert out.tolist() == [3.5, 5.0]
    interpret((2,), says, (torch.tensor([1.0, 2.0, 3.0, 4.0]),))
    printed = "block 0: [  1.0,   2.0]%\nblock 1: [  3.0,   4.0]%\n"
    assert capsys.readouterr().out == printed
    assert formatted("%lld %x %a", [3, 255, 1.0]) == f"3 ff {(1.0).hex()}"


@ct.kernel
def asserts(x: ct.Array) -> None:
    ct.assert_(ct.load(x, (ct.bid(0),), (2,)) > 0, "positive")  # noqa: PT009 - not unittest's


def test_assertions_name_block_and_line() -> None:
    interpret((2,), asserts, (torch.ones(4),))
    with pytest.raises(KernelFault, match=r"kernel asserts at .*: positive \(block") as e:
        interpret((2,), asserts, (torch.tensor([1.0, 1.0, 1.0, 0.0]),))
    assert (e.value.kind, e.value.block) == (FaultKind.ASSERTION, (1, 0, 0))


REFUSED: tuple[tuple[tuple[int, ...], tuple[Any, ...], type[Exception], str], ...] = (
    ((0,), (torch.zeros(2), 1, 1.0, True), ValueError, "a grid has one to three numbers"),
    ((1,), (torch.zeros(2), 1, 1.0), TypeError, r"takes 4 arguments \(out, i, f, flag\), not 3"),
    ((1,), (torch.zeros(2), None, 1.0, True), TypeError, "not NoneType"),
    ((1,), (torch.zeros(2), 2**31, 1.0, True), OverflowError, "`i`: 2147483648 does not fit int32"),
    ((1,), (torch.zeros(2, dtype=torch.complex64), 1, 1.0, True), TypeError, "cannot read"),
    (
        (1,),
        (torch.zeros(2, device="meta"), 1, 1.0, True),
        TypeError,
        r"takes CPU tensors, and `out` is on meta: copy it with \.cpu\(\)",
    ),
)


@pytest.mark.parametrize(("grid", "args", "error", "words"), REFUSED)
def test_what_a_launch_would_refuse_is_refused(
    grid: tuple[int, ...], args: tuple[Any, ...], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        interpret(grid, scalars, args)
