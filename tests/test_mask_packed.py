"""Packed sequences that compare positions, not indices: the same, within one sequence."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from tests.mask_programs import check, read, seen, visible

POSITIONS = torch.tensor([[0, 1, 2, 0, 1, 0, 1, 2, 3], [5, 6, 7, 8, 0, 1, 2, 0, 1]])


def numbers(x: torch.Tensor) -> torch.Tensor:
    """Transformers' find_packed_sequence_indices."""
    return (torch.diff(x, prepend=x[:, :1] - 1, dim=-1) != 1).cumsum(-1)


def mask(x: torch.Tensor, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Same sequence, and no later position."""
    batch = torch.arange(x.shape[0])[:, None, None, None]
    query = torch.arange(x.shape[1])[None, None, :, None]
    key = torch.arange(x.shape[1])[None, None, None, :]
    same = ids[batch, query] == ids[batch, key]
    return same & (positions[batch, key] <= positions[batch, query])


def packed(x: torch.Tensor) -> torch.Tensor:
    return mask(x, numbers(x), x)


def one_window(x: torch.Tensor) -> torch.Tensor:
    batch = torch.arange(x.shape[0])[:, None, None, None]
    query = torch.arange(x.shape[1])[None, None, :, None]
    key = torch.arange(x.shape[1])[None, None, None, :]
    return packed(x) & (x[batch, query] - x[batch, key] < 3)


def test_positions_are_indices_within_a_sequence() -> None:
    assert check(packed, x=POSITIONS) == "causal+segments"
    assert check(one_window, x=POSITIONS) == "causal+window(3)+segments"
    assert check(packed, x=POSITIONS[:1]) == "causal+segments"


def steps_of_two(x: torch.Tensor) -> torch.Tensor:
    return mask(x, (torch.diff(x, prepend=x[:, :1] - 1, dim=-1) != 2).cumsum(-1), x)


def numbers_that_come_round(x: torch.Tensor) -> torch.Tensor:
    ids = (torch.diff(x, prepend=x[:, :1] - 1, dim=-1) != 1).cumsum(-1, dtype=torch.int8)
    return mask(x, ids, x)


def other_positions(x: torch.Tensor) -> torch.Tensor:
    return mask(x, numbers(x), x.flip(1))


def numbers_of_something_else(x: torch.Tensor) -> torch.Tensor:
    return mask(x, numbers(x * 2), x)


def moved_by_one(x: torch.Tensor) -> torch.Tensor:
    """No first element in front: number i is about the step behind it."""
    ids = (torch.diff(x, dim=-1) != 1).cumsum(-1)
    return mask(x[:, 1:], ids, x)


def across(x: torch.Tensor) -> torch.Tensor:
    return mask(x, (torch.diff(x, prepend=x[:1] - 1, dim=0) != 1).cumsum(-1), x)


@pytest.mark.parametrize(
    "program",
    (
        steps_of_two,
        numbers_that_come_round,
        other_positions,
        numbers_of_something_else,
        moved_by_one,
        across,
    ),
    ids=lambda program: program.__name__,
)
def test_what_only_looks_like_it_is_not_causal(
    program: Callable[[torch.Tensor], torch.Tensor],
) -> None:
    found = read(program, x=POSITIONS)
    assert "causal" not in str(found.meaning)
    if not found.meaning.problem:
        assert torch.equal(seen(found), visible(found.mask, hides=False))


def test_one_position_out_of_order_is_seen() -> None:
    """The numbers are of the positions that the mask sees, whatever they are."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        x = torch.randint(0, 4, (2, 7), generator=generator)
        assert check(packed, x=x) == "causal+segments"
