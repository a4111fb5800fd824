"""Kernels of many kinds give torch's results: one block at a time, some, all, and in reverse."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from tests import interpreter_kernels as kernels
from tile_backend.lowering.budget import within_budget
from tile_backend.lowering.interpreter.launch import interpret

ORDERS: dict[str, dict[str, Any]] = {
    "default": {},
    "one": {"blocks_at_once": 1},
    "some": {"blocks_at_once": 3},
    "all": {"blocks_at_once": 10_000},
    "reversed": {"blocks_at_once": 4, "reverse": True},
}
Expected = Sequence[torch.Tensor]
Case = tuple[tuple[int, ...], Any, tuple[Any, ...], list[torch.Tensor], Expected]


def check(case: Case, exact: bool = True) -> None:
    """Outputs equal what is expected, and do not depend on the order of blocks."""
    grid, kernel, args, outputs, expected = case
    blank = [out.clone() for out in outputs]
    results = []
    for order in ORDERS.values():
        for out, before in zip(outputs, blank, strict=True):
            out.copy_(before)
        interpret(grid, kernel, args, **order)
        results.append([out.clone() for out in outputs])
    for found in results:
        for out, wanted, first in zip(found, expected, results[0], strict=True):
            if exact:
                assert torch.equal(out, first), "the order of blocks changes the result"
                assert torch.equal(out, wanted.to(out.dtype))
            else:  # sums in another order than torch's
                verdict = within_budget(out, wanted.double(), wanted.to(out.dtype))
                assert verdict, str(verdict)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def whole(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Small whole numbers: sums and products are exact, in whatever order."""
    return torch.randint(-4, 5, shape, generator=generator()).to(dtype)


def moments() -> Case:
    x, total, squares = whole(13, 50), torch.zeros(13), torch.zeros(13)
    expected = [x.sum(1), x.square().sum(1)]
    return (13,), kernels.moments, (x, total, squares, 64), [total, squares], expected


def row_argmax() -> Case:
    x = torch.randn(9, 50, generator=generator())
    best, where = torch.zeros(9), torch.zeros(9, dtype=torch.int32)
    return (9,), kernels.row_argmax, (x, best, where, 64), [best, where], [*x.max(1)]


def embedding() -> Case:
    ids = torch.randint(0, 30, (17,), generator=generator(), dtype=torch.int32)
    table, out = torch.randn(30, 20, generator=generator()), torch.zeros(17, 20)
    return (17,), kernels.embedding, (ids, table, out, 32), [out], [table[ids.long()]]


def paged() -> Case:
    pages = torch.randn(20, 16, generator=generator())
    table = torch.randperm(20, generator=generator(), dtype=torch.int32)[:16]
    out = torch.zeros(16, 8)
    return (4,), kernels.paged, (pages, table, out, 4, 8), [out], [pages[table.long(), 4:12]]


def matmul(kernel: Any, grid: tuple[int, ...]) -> Case:
    a, b, c = whole(50, 40), whole(40, 70), torch.zeros(50, 70)
    return grid, kernel, (a, b, c, 16, 32, 16), [c], [a @ b]


def divergent() -> Case:
    x = whole(20 * 8)
    out, expected = torch.zeros_like(x), x.reshape(20, 8).clone()
    for block, row in enumerate(expected):
        n, steps = block, 0
        while n > 0 and steps < 9:
            n, steps = (3 * n + 1 if n % 2 else n // 2), steps + 1
        if block % 3 == 0:
            row *= 2
        elif block % 3 == 1:
            row += sum(range(block % 5))
        else:
            row *= -1
        row += steps
    return (20,), kernels.divergent, (x, out, 9, 8), [out], [expected.reshape(-1)]


def leaves_early() -> Case:
    x, out = whole(12 * 8), torch.zeros(12 * 8)
    expected = torch.zeros(12, 8)
    for block in range(0, 12, 2):
        row = x.reshape(12, 8)[block]
        expected[block] = row + block // 2 + block if block < 8 else row + 4
    return (12,), kernels.leaves_early, (x, out, 8), [out], [expected.reshape(-1)]


def scale_segments() -> Case:
    offsets = torch.tensor([0, 5, 5, 22, 40], dtype=torch.int32)
    x, out = whole(40, 8), torch.zeros(40, 8)
    factor = torch.repeat_interleave(torch.arange(1, 5), offsets.diff().long())[:, None]
    return (4,), kernels.scale_segments, (x, offsets, out, 4), [out], [x * factor]


def overlapping() -> Case:
    x, out = whole(20), torch.zeros(10)
    padded = torch.cat((x, torch.zeros(4)))
    expected = torch.stack([padded[2 * i : 2 * i + 4].sum() for i in range(10)])
    return (10,), kernels.overlapping, (x, out, 4, 2), [out], [expected]


def histogram() -> Case:
    x = torch.randint(0, 10, (64,), generator=generator(), dtype=torch.int32)
    counts = torch.zeros(10, dtype=torch.int32)
    expected = torch.bincount(x, minlength=10)
    return (8,), kernels.histogram, (x, counts, 8), [counts], [expected]


def sum_of_list() -> Case:
    arrays, out = [whole(n) for n in (3, 17, 8)], torch.zeros(3)
    expected = torch.stack([array.sum() for array in arrays])
    return (3,), kernels.sum_of_list, (arrays, out, 8), [out], [expected]


def pair_of() -> Case:
    x, y, out = whole(16), whole(16) + 1, torch.zeros(16)
    return (4,), kernels.pair_of, ((x, y), (2.0, 3), out, 4), [out], [2 * x + 3 * y]


def last_block_sums() -> Case:
    x, partial, out = whole(80), torch.zeros(10), torch.zeros(1)
    counter = torch.zeros(1, dtype=torch.int32)
    args = (x, partial, counter, out, 8)
    expected = [x.reshape(10, 8).sum(1), x.sum(0, keepdim=True), torch.tensor([10])]
    return (10,), kernels.last_block_sums, args, [partial, out, counter], expected


CASES: dict[str, Callable[[], Case]] = {
    "moments": moments,
    "row_argmax": row_argmax,
    "embedding": embedding,
    "paged": paged,
    "matmul_persistent": lambda: matmul(kernels.matmul_persistent, (5,)),
    "matmul_split_k": lambda: matmul(kernels.matmul_split_k, (4, 3, 2)),
    "divergent": divergent,
    "leaves_early": leaves_early,
    "scale_segments": scale_segments,
    "overlapping": overlapping,
    "histogram": histogram,
    "sum_of_list": sum_of_list,
    "pair_of": pair_of,
    "last_block_sums": last_block_sums,
}


@pytest.mark.parametrize("name", CASES)
def test_a_kernel_gives_what_torch_gives_in_any_order(name: str) -> None:
    check(CASES[name]())
