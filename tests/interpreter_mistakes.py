"""Kernels with one mistake each; `MISTAKES` lists them with the fault and the line to blame."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import cuda.tile as ct
import torch

from tile_backend.lowering.interpreter.faults import FaultKind

Const = ct.Constant
ZERO = ct.PaddingMode.ZERO


class Mistake(NamedTuple):
    """line: a part of the source line that the fault names. words: parts of its text."""

    kind: FaultKind
    line: str
    words: tuple[str, ...]
    launch: Callable[[], tuple[tuple[int, ...], Any, tuple[Any, ...]]]


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


def ragged() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.ones(3, 5), torch.zeros(3)


def vector(n: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.arange(1.0, n + 1), torch.zeros(n)


UNDETERMINED, OUTSIDE = FaultKind.UNDETERMINED, FaultKind.TILE_OUTSIDE
BOUNDS, WRITES = FaultKind.OUT_OF_BOUNDS, FaultKind.WRITE_CONFLICT
LOADED = "it comes from the padding of the load at interpreter_mistakes.py:"

MISTAKES: dict[str, Mistake] = {
    "forgets_padding": Mistake(
        UNDETERMINED,
        "ct.store(out, (ct.bid(0),), ct.sum(tile, axis=1))",
        ("is stored in `out`", LOADED, "no padding_mode"),
        lambda: ((3,), forgets_padding, ragged()),
    ),
    "hides_padding_in_a_maximum": Mistake(
        UNDETERMINED,
        "ct.max(tile, axis=1)",
        ("is stored in `out`", LOADED),
        lambda: ((3,), hides_padding_in_a_maximum, ragged()),
    ),
    "multiplies_padding_by_zero": Mistake(
        UNDETERMINED,
        "tile * kept",
        ("is stored in `out`", LOADED),
        lambda: ((3,), multiplies_padding_by_zero, ragged()),
    ),
    "branches_on_padding": Mistake(
        UNDETERMINED,
        "if last > 0",
        ("decides a branch", LOADED),
        lambda: ((3,), branches_on_padding, ragged()),
    ),
    "carries_padding_through_a_loop": Mistake(
        UNDETERMINED,
        "ct.sum(total, axis=1)",
        ("is stored in `out`", LOADED),
        lambda: ((3,), carries_padding_through_a_loop, (torch.ones(3, 13), torch.zeros(3))),
    ),
    "multiplies_padded_matrices": Mistake(
        UNDETERMINED,
        "ct.mma(tile, tile",
        ("is stored in `out`", LOADED),
        lambda: ((1,), multiplies_padded_matrices, (torch.ones(8, 6), torch.zeros(8, 6))),
    ),
    "indexes_with_padding": Mistake(
        UNDETERMINED,
        "ct.scatter(out, at",
        ("is used as an address", LOADED),
        lambda: ((1,), indexes_with_padding, (torch.arange(5).int(), torch.zeros(200))),
    ),
    "loads_beyond": Mistake(
        OUTSIDE,
        "ct.load(x, (ct.bid(0) + 1,)",
        ("a tile of `x` lies wholly outside it: elements 16 to 23 of 12 along tile axis 0",),
        lambda: ((2,), loads_beyond, vector()),
    ),
    "stores_before": Mistake(
        OUTSIDE,
        "ct.store(out, (ct.bid(0) - 1,)",
        ("a tile of `out` lies wholly outside it: elements -8 to -1 of 12", "block (0, 0, 0)"),
        lambda: ((2,), stores_before, (torch.ones(16), torch.zeros(12))),
    ),
    "trusts_the_size": Mistake(
        BOUNDS,
        "check_bounds=False",
        ("a tile of `x` is not inside it: elements 8 to 15 of 12", "block (1, 0, 0)"),
        lambda: ((2,), trusts_the_size, vector()),
    ),
    "gathers_beyond": Mistake(
        BOUNDS,
        "ct.gather(x, at, check_bounds=False)",
        ("index 12 is outside axis 0 of `x`, of 12 elements, and bounds are not checked",),
        lambda: ((2,), gathers_beyond, vector()),
    ),
    "gathers_beyond_a_row": Mistake(
        BOUNDS,
        "ct.gather(x, (ct.bid(0)",
        ("index 5 is outside axis 1 of `x`, of 5 elements",),
        lambda: ((2,), gathers_beyond_a_row, ragged()),
    ),
    "reads_raw_memory_beyond": Mistake(
        FaultKind.BAD_ADDRESS,
        "memory.load_offset(at)",
        ("is that of no element of `x` [12]", "`out` [12]"),
        lambda: ((2,), reads_raw_memory_beyond, vector()),
    ),
    "reads_a_gap": Mistake(
        FaultKind.BAD_ADDRESS,
        "memory.load_offset(at)",
        ("is that of no element of `x` [12]",),
        lambda: ((1,), reads_raw_memory_beyond, (torch.ones(24)[::2], torch.zeros(12))),
    ),
    "slices_beyond": Mistake(
        FaultKind.BAD_ADDRESS,
        "ct.load(part, (0,), (8,))",
        ("in no array argument", "`x` of 48 bytes"),
        lambda: ((2,), slices_beyond, (torch.ones(12), torch.zeros(16))),
    ),
    "promises_too_much": Mistake(
        FaultKind.DIVISIBILITY,
        "ct.assume_divisible_by(n, 4)",
        ("is promised to be divisible by 4; 6 is not a multiple of it",),
        lambda: ((1,), promises_too_much, (*vector(), 6)),
    ),
    "writes_its_number": Mistake(
        WRITES,
        "ct.store(out, (ct.bid(0) // 2,)",
        ("of `out`", "another value there", "blocks run in no order"),
        lambda: ((4,), writes_its_number, vector()),
    ),
    "scatters_twice": Mistake(
        WRITES,
        "ct.scatter(out, at",
        ("element [0] of `out`",),
        lambda: ((1,), scatters_twice, vector(8)),
    ),
    "reads_its_neighbour": Mistake(
        FaultKind.FOREIGN_READ,
        "",
        ("of `out`",),
        lambda: ((4,), reads_its_neighbour, vector(4)),
    ),
    "shifts_in_place": Mistake(
        FaultKind.FOREIGN_READ,
        "ct.store(x, (block,), ct.load(x, (block + 1,), (1,)))",
        ("of `x`",),
        lambda: ((4,), shifts_in_place, (torch.arange(5.0),)),
    ),
    "aliased": Mistake(
        FaultKind.ALIASED,
        "ct.store(out, at, ct.load(x, at, (1,))",
        ("`y` and `out` share memory, and the kernel writes to it", "pass one array for both"),
        lambda: (lambda x, y: ((4,), adds, (x, y, y)))(torch.ones(4), torch.ones(4)),
    ),
    "aliased_in_part": Mistake(
        FaultKind.ALIASED,
        "ct.store(out, at, ct.load(x, at, (1,))",
        ("`x` and `out` share memory",),
        lambda: (lambda x, y: ((4,), adds, (x[:4], y, x[3:7])))(torch.ones(8), torch.ones(4)),
    ),
    "spins": Mistake(
        FaultKind.NO_PROGRESS,
        "while ct.atomic_add(flag, 0, 0) == 0:",
        ("is in a state that it was in before", "waits for another block"),
        lambda: ((2,), spins, (torch.zeros(1).int(), torch.zeros(2))),
    ),
}
