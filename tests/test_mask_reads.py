"""Masks that read what the graph writes to: each read has the value of its time."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.mask_programs import check, read
from tile_backend.lowering.mask.factors import Causal, Window

LENGTH = torch.tensor(2)
S, L = 3, 8


def keys() -> torch.Tensor:
    return torch.arange(L)[None, :]


def queries() -> torch.Tensor:
    return torch.arange(S)[:, None]


def before_the_write(length: torch.Tensor) -> Any:
    """As a StaticCache keeps its length."""
    mask = keys() <= queries() + length
    return mask, length.add_(S)


def after_the_write(length: torch.Tensor) -> torch.Tensor:
    length.add_(S)
    return keys() <= queries() + length


def on_both_sides(length: torch.Tensor) -> torch.Tensor:
    first = keys() <= queries() + length
    length += S
    return first & (keys() > queries() + length - 6)


def twice(length: torch.Tensor) -> Any:
    mask = (keys() <= queries() + length) & (keys() > queries() + length - 4)
    return mask, length.add_(S)


def through_itself(length: torch.Tensor) -> Any:
    """`to` with nothing to do returns the tensor."""
    same = length.to(torch.int64)
    first = keys() <= queries() + same
    mask = first & (keys() > queries() + length - 4)
    return mask, length.add_(S)


def written_through_itself(length: torch.Tensor) -> torch.Tensor:
    length.to(torch.int64).add_(S)
    return keys() <= queries() + length


def taken_early_and_used_late(length: torch.Tensor) -> torch.Tensor:
    """A view made before the write sees what was written."""
    view = length[None]
    length.add_(S)
    return (keys() <= queries() + view) & (keys() > queries() + length - 4)


def copied_before(length: torch.Tensor) -> torch.Tensor:
    kept = length.clone()
    length.add_(S)
    return keys() <= queries() + kept


def computed_before(length: torch.Tensor) -> torch.Tensor:
    """What is computed from it does not change with it."""
    positions = queries() + length
    length.add_(S)
    return (keys() <= positions) & (keys() > queries() + length - 6)


def one_element(length: torch.Tensor) -> Any:
    whole = length.expand(1)
    return (keys() <= queries() + whole, whole.sum())


def positions_of_the_graph(length: torch.Tensor) -> torch.Tensor:
    positions = torch.arange(S) + length
    return (keys() <= positions[:, None])[None, None]


READS: dict[Any, str] = {
    before_the_write: "causal(l_length_)",
    after_the_write: "causal(l_length_)",
    on_both_sides: "causal(l_length_)+window(6)",
    twice: "causal(l_length_)+window(4)",
    through_itself: "causal(l_length_)+window(4)",
    written_through_itself: "causal(l_length_)",
    taken_early_and_used_late: "causal(l_length_)+window(4)",
    copied_before: "causal(l_length_)",
    computed_before: "causal(l_length_)+window(6)",
    one_element: "causal(l_length_)",
    positions_of_the_graph: "causal(l_length_)",
}


@pytest.mark.parametrize("program", READS, ids=lambda program: program.__name__)
def test_a_read_is_that_of_its_time(program: Any) -> None:
    assert check(program, length=LENGTH) == READS[program]


@pytest.mark.parametrize("program", (twice, through_itself, taken_early_and_used_late))
def test_two_reads_without_a_write_between_them_are_one(program: Any) -> None:
    meaning = read(program, length=LENGTH).meaning
    assert meaning.offset is not None
    assert meaning.offset.read is not None
    assert meaning.offset.read.before is not None


@pytest.mark.parametrize("program", (on_both_sides, computed_before))
def test_a_write_between_two_reads_tells_them_apart(program: Any) -> None:
    found = read(program, length=LENGTH).meaning
    causal, window = found.factors
    assert isinstance(causal, Causal)
    assert isinstance(window, Window)
    assert causal.offset.read != window.offset.read
    assert found.offset is None


def test_what_nobody_writes_to_can_be_read_at_any_time() -> None:
    meaning = read(positions_of_the_graph, length=LENGTH).meaning
    assert meaning.offset is not None
    assert meaning.offset.read is not None
    assert meaning.offset.read.before is None


def built_in_place(length: torch.Tensor) -> torch.Tensor:
    mask = torch.ones(S, L, dtype=torch.bool)
    return mask.masked_fill_(keys() > queries() + length, False)


def element_set(length: torch.Tensor) -> torch.Tensor:
    mask = keys() <= queries() + length
    mask[0, 5] = True
    return mask[None, None]


@pytest.mark.parametrize("program", (built_in_place, element_set))
def test_a_mask_that_is_written_to_is_given_up(program: Any) -> None:
    assert "is written to" in read(program, length=LENGTH).meaning.problem


def test_a_part_that_is_written_to_is_read() -> None:
    def with_padding(keep: torch.Tensor) -> Any:
        row = keep[:, 0].view(1, -1)
        mask = (keys() <= queries()) & keep.bool()[:, None, None, :]
        row.zero_()
        return mask, keep.bool()

    keep = torch.tensor([[1, 0, 1, 1, 0, 1, 1, 1], [1, 1, 1, 1, 1, 1, 0, 0]])
    assert check(with_padding, keep=keep) == "causal+padding"


def test_what_changes_its_shape_is_not_read() -> None:
    def turned(keep: torch.Tensor) -> Any:
        table = keep.clone()
        mask = (keys() <= queries()) & table[0, :L]
        return mask, table.unsqueeze_(0)

    found = read(turned, keep=torch.ones(2, L, dtype=torch.bool)).meaning
    assert "changes its shape" in found.problem
