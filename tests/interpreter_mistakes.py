"""Mistakes that a kernel can make: the launch, the fault, and the line to blame."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from tests import interpreter_mistaken_kernels as wrong
from tile_backend.lowering.interpreter.faults import FaultKind


class Mistake(NamedTuple):
    """line: a part of the source line that the fault names. words: parts of its text."""

    kind: FaultKind
    line: str
    words: tuple[str, ...]
    launch: Callable[[], tuple[tuple[int, ...], Any, tuple[Any, ...]]]


def ragged() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.ones(3, 5), torch.zeros(3)


def vector(n: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.arange(1.0, n + 1), torch.zeros(n)


UNDETERMINED, OUTSIDE = FaultKind.UNDETERMINED, FaultKind.TILE_OUTSIDE
BOUNDS, WRITES = FaultKind.OUT_OF_BOUNDS, FaultKind.WRITE_CONFLICT
LOADED = "it comes from the padding of the load at interpreter_mistaken_kernels.py:"

MISTAKES: dict[str, Mistake] = {
    "forgets_padding": Mistake(
        UNDETERMINED,
        "ct.store(out, (ct.bid(0),), ct.sum(tile, axis=1))",
        ("is stored in `out`", LOADED, "no padding_mode"),
        lambda: ((3,), wrong.forgets_padding, ragged()),
    ),
    "hides_padding_in_a_maximum": Mistake(
        UNDETERMINED,
        "ct.max(tile, axis=1)",
        ("is stored in `out`", LOADED),
        lambda: ((3,), wrong.hides_padding_in_a_maximum, ragged()),
    ),
    "multiplies_padding_by_zero": Mistake(
        UNDETERMINED,
        "tile * kept",
        ("is stored in `out`", LOADED),
        lambda: ((3,), wrong.multiplies_padding_by_zero, ragged()),
    ),
    "branches_on_padding": Mistake(
        UNDETERMINED,
        "if last > 0",
        ("decides a branch", LOADED),
        lambda: ((3,), wrong.branches_on_padding, ragged()),
    ),
    "carries_padding_through_a_loop": Mistake(
        UNDETERMINED,
        "ct.sum(total, axis=1)",
        ("is stored in `out`", LOADED),
        lambda: ((3,), wrong.carries_padding_through_a_loop, (torch.ones(3, 13), torch.zeros(3))),
    ),
    "multiplies_padded_matrices": Mistake(
        UNDETERMINED,
        "ct.mma(tile, tile",
        ("is stored in `out`", LOADED),
        lambda: ((1,), wrong.multiplies_padded_matrices, (torch.ones(8, 6), torch.zeros(8, 6))),
    ),
    "indexes_with_padding": Mistake(
        UNDETERMINED,
        "ct.scatter(out, at",
        ("is used as an address", LOADED),
        lambda: ((1,), wrong.indexes_with_padding, (torch.arange(5).int(), torch.zeros(200))),
    ),
    "loads_beyond": Mistake(
        OUTSIDE,
        "ct.load(x, (ct.bid(0) + 1,)",
        ("a tile of `x` lies wholly outside it: elements 16 to 23 of 12 along tile axis 0",),
        lambda: ((2,), wrong.loads_beyond, vector()),
    ),
    "stores_before": Mistake(
        OUTSIDE,
        "ct.store(out, (ct.bid(0) - 1,)",
        ("a tile of `out` lies wholly outside it: elements -8 to -1 of 12", "block (0, 0, 0)"),
        lambda: ((2,), wrong.stores_before, (torch.ones(16), torch.zeros(12))),
    ),
    "trusts_the_size": Mistake(
        BOUNDS,
        "check_bounds=False",
        ("a tile of `x` is not inside it: elements 8 to 15 of 12", "block (1, 0, 0)"),
        lambda: ((2,), wrong.trusts_the_size, vector()),
    ),
    "gathers_beyond": Mistake(
        BOUNDS,
        "ct.gather(x, at, check_bounds=False)",
        ("index 12 is outside axis 0 of `x`, of 12 elements, and bounds are not checked",),
        lambda: ((2,), wrong.gathers_beyond, vector()),
    ),
    "gathers_beyond_a_row": Mistake(
        BOUNDS,
        "ct.gather(x, (ct.bid(0)",
        ("index 5 is outside axis 1 of `x`, of 5 elements",),
        lambda: ((2,), wrong.gathers_beyond_a_row, ragged()),
    ),
    "reads_raw_memory_beyond": Mistake(
        FaultKind.BAD_ADDRESS,
        "memory.load_offset(at)",
        ("is that of no element of `x` [12]", "`out` [12]"),
        lambda: ((2,), wrong.reads_raw_memory_beyond, vector()),
    ),
    "reads_a_gap": Mistake(
        FaultKind.BAD_ADDRESS,
        "memory.load_offset(at)",
        ("is that of no element of `x` [12]",),
        lambda: ((1,), wrong.reads_raw_memory_beyond, (torch.ones(24)[::2], torch.zeros(12))),
    ),
    "slices_beyond": Mistake(
        FaultKind.BAD_ADDRESS,
        "ct.load(part, (0,), (8,))",
        ("in no array argument", "`x` of 48 bytes"),
        lambda: ((2,), wrong.slices_beyond, (torch.ones(12), torch.zeros(16))),
    ),
    "promises_too_much": Mistake(
        FaultKind.DIVISIBILITY,
        "ct.assume_divisible_by(n, 4)",
        ("is promised to be divisible by 4; 6 is not a multiple of it",),
        lambda: ((1,), wrong.promises_too_much, (*vector(), 6)),
    ),
    "writes_its_number": Mistake(
        WRITES,
        "ct.store(out, (ct.bid(0) // 2,)",
        ("of `out`", "another value there", "blocks run in no order"),
        lambda: ((4,), wrong.writes_its_number, vector()),
    ),
    "scatters_twice": Mistake(
        WRITES,
        "ct.scatter(out, at",
        ("element [0] of `out`",),
        lambda: ((1,), wrong.scatters_twice, vector(8)),
    ),
    "reads_its_neighbour": Mistake(
        FaultKind.FOREIGN_READ,
        "",
        ("of `out`",),
        lambda: ((4,), wrong.reads_its_neighbour, vector(4)),
    ),
    "shifts_in_place": Mistake(
        FaultKind.FOREIGN_READ,
        "ct.store(x, (block,), ct.load(x, (block + 1,), (1,)))",
        ("of `x`",),
        lambda: ((4,), wrong.shifts_in_place, (torch.arange(5.0),)),
    ),
    "aliased": Mistake(
        FaultKind.ALIASED,
        "ct.store(out, at, ct.load(x, at, (1,))",
        ("`y` and `out` share memory, and the kernel writes to it", "pass one array for both"),
        lambda: (lambda x, y: ((4,), wrong.adds, (x, y, y)))(torch.ones(4), torch.ones(4)),
    ),
    "aliased_in_part": Mistake(
        FaultKind.ALIASED,
        "ct.store(out, at, ct.load(x, at, (1,))",
        ("`x` and `out` share memory",),
        lambda: (lambda x, y: ((4,), wrong.adds, (x[:4], y, x[3:7])))(torch.ones(8), torch.ones(4)),
    ),
    "spins": Mistake(
        FaultKind.NO_PROGRESS,
        "while ct.atomic_add(flag, 0, 0) == 0:",
        ("is in a state that it was in before", "waits for another block"),
        lambda: ((2,), wrong.spins, (torch.zeros(1).int(), torch.zeros(2))),
    ),
}
