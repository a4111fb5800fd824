"""What attention's kernel does not read: keys and values that no query of a block sees.

Tiles of keys that the rules hide from all queries hold NaN here. A kernel that read them would
spread it, since 0 * NaN is NaN; results are those for tiles of zeros, to the bit.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from tests.attention_cases import Arguments, heads, padded
from tests.kernel_check import outputs_of
from tile_backend.lowering import interpreted
from tile_backend.lowering.custom_op import record
from tile_backend.lowering.kernels.attention_tiles import attention_tiles

BF16 = torch.bfloat16
TILE = attention_tiles("sm_90", 64, 512, BF16)
ROWS, COLS = TILE.rows, TILE.cols
LENGTH = 5 * COLS
assert ROWS == COLS, "the cases below count in tiles of one size"


def mask_of_tiles() -> torch.Tensor:
    """Each tile of queries sees the tile of keys of its number, and none the third."""
    tile = torch.arange(LENGTH) // COLS
    return (tile[:, None] == tile[None, :]) & (tile != 2)[None, :]


def ids(*of_tiles: int) -> torch.Tensor:
    return torch.tensor(of_tiles).repeat_interleave(COLS)[None]


HIDDEN: dict[str, tuple[dict[str, Any], set[int]]] = {
    "causal": ({"is_causal": True, "sizes": (2 * ROWS, LENGTH)}, {2, 3, 4}),
    "causal from a start": (
        {"is_causal": True, "start": COLS, "sizes": (2 * ROWS, LENGTH)},
        {3, 4},
    ),
    "window": (
        {"is_causal": True, "window": 9, "start": 3 * COLS, "sizes": (ROWS, LENGTH)},
        {0, 1, 4},
    ),
    "chunk": ({"chunk": 2 * COLS, "start": 2 * COLS, "sizes": (ROWS, LENGTH)}, {0, 1, 4}),
    "cache": (
        {"is_causal": True, "offset": torch.tensor([COLS]), "sizes": (ROWS, LENGTH)},
        {2, 3, 4},
    ),
    "decode": (
        {"is_causal": True, "offset": torch.tensor([COLS]), "sizes": (1, LENGTH)},
        {2, 3, 4},
    ),
    "padding": (
        {"padding": padded((COLS, 3 * COLS), (2 * COLS - 1, 2 * COLS), keys=LENGTH)},
        {0, 3, 4},
    ),
    "mask of keys": ({"mask": padded((COLS, 3 * COLS), keys=LENGTH)[:, None, None]}, {0, 3, 4}),
    "segments": ({"segments": ids(7, 8, 8, 9, 9), "sizes": (ROWS, LENGTH)}, {1, 2, 3, 4}),
    "segments that go down": (
        {"segments": ids(9, 9, 8, 8, 7), "start": 2 * COLS, "sizes": (ROWS, LENGTH)},
        {0, 1, 4},
    ),
    "mask": ({"mask": mask_of_tiles()}, {2}),
}
"""Rules, and the tiles of keys that nobody sees under them."""


def results(given: Arguments) -> list[torch.Tensor]:
    op = record("attention_with_lse")
    outputs = outputs_of(op, given)
    interpreted.run(op, given, outputs)
    return outputs


def with_tiles(given: Arguments, tiles: set[int], value: float) -> Arguments:
    """Keys and values of these tiles are all `value`."""
    position = torch.arange(LENGTH) // COLS
    hidden = torch.isin(position, torch.tensor(sorted(tiles)))[:, None]
    return {**given, **{name: given[name].masked_fill(hidden, value) for name in "kv"}}


@pytest.mark.parametrize("name", HIDDEN)
def test_hidden_tiles_are_not_read(name: str) -> None:
    rules, tiles = HIDDEN[name]
    given = heads(BF16, **{"sizes": (LENGTH, LENGTH), "widths": (64, 64), **rules})
    clean, poisoned = (results(with_tiles(given, tiles, value)) for value in (0.0, math.nan))
    for one, two in zip(clean, poisoned, strict=True):
        assert torch.isfinite(one).any()
        assert torch.equal(one, two)


@pytest.mark.parametrize("name", HIDDEN)
def test_and_every_other_tile_is(name: str) -> None:
    """The cases name all tiles that are hidden: one more and NaN is seen."""
    rules, tiles = HIDDEN[name]
    given = heads(BF16, **{"sizes": (LENGTH, LENGTH), "widths": (64, 64), **rules})
    for tile in set(range(LENGTH // COLS)) - tiles:
        assert results(with_tiles(given, {tile}, math.nan))[0].isnan().any()


def test_blocks_that_see_nothing_read_nothing() -> None:
    given = heads(BF16, sizes=(ROWS, LENGTH), widths=(64, 64), padding=padded((0, 0), keys=LENGTH))
    out, lse = results(with_tiles(given, set(range(5)), math.nan))
    assert not out.any()
    assert (lse == -math.inf).all()


def test_a_fill_that_counts_reads_everything() -> None:
    rules = HIDDEN["causal"][0]
    given = heads(BF16, **{"widths": (64, 64), **rules}, fill=-1e4)
    op = record("attention")
    (out,) = outputs = outputs_of(op, given)
    interpreted.run(op, with_tiles(given, {4}, math.nan), outputs)
    assert out.isnan().all()
