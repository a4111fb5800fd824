"""What masks mean: as Transformers and others spell them, and with one element changed."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from tests.core_graph import kept
from tests.mask_programs import check, indices, meaning_in, read, seen, visible
from tile_backend import inductor
from tile_backend.lowering.mask import reader
from tile_backend.lowering.node import value

IDS = torch.tensor([[0, 1, 2, 3, 0, 1, 2], [0, 1, 2, 3, 4, 5, 6]])
KEEP = torch.tensor([[0, 0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1]])


def causal(x: torch.Tensor) -> torch.Tensor:
    _, q, k = indices(x)
    return (k <= q).expand(x.shape[0], -1, -1, -1)


def reversed_operands(x: torch.Tensor) -> torch.Tensor:
    _, q, k = indices(x)
    return ~(q < k)


def triangle(x: torch.Tensor) -> torch.Tensor:
    return torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril()


def upper_triangle_added(x: torch.Tensor) -> torch.Tensor:
    hidden = torch.full((x.shape[1], x.shape[1]), -math.inf)
    return hidden.triu(1)[None, None]


def filled_with_the_lowest(x: torch.Tensor) -> torch.Tensor:
    lowest = torch.finfo(torch.bfloat16).min
    base = torch.zeros(x.shape[1], x.shape[1], dtype=torch.bfloat16)
    above = torch.arange(x.shape[1])[None, :] > torch.arange(x.shape[1])[:, None]
    return base.masked_fill(above, lowest)[None, None].expand(x.shape[0], 1, -1, -1)


def as_numbers(x: torch.Tensor) -> torch.Tensor:
    keep = torch.ones(x.shape[1], x.shape[1]).tril()
    return (1.0 - keep) * torch.finfo(torch.float32).min


def chosen(x: torch.Tensor) -> torch.Tensor:
    _, q, k = indices(x)
    return torch.where(q >= k, torch.tensor(0.0), torch.tensor(-math.inf))


def packed_check(x: torch.Tensor) -> torch.Tensor:
    """Positions that the model made itself: one sequence, which Transformers finds at run time."""
    batch, q, k = indices(x)
    positions = torch.arange(x.shape[1])[None].expand(x.shape[0], -1)
    jumps = torch.diff(positions, prepend=positions[:, :1] - 1, dim=-1) != 1
    ids = jumps.cumsum(-1)
    return (k <= q) & (ids[batch, q] == ids[batch, k]) & (positions[batch, k] <= q)


def packed(x: torch.Tensor) -> torch.Tensor:
    """Positions that were given."""
    batch, q, k = indices(x)
    ids = (torch.diff(x, prepend=x[:, :1] - 1, dim=-1) != 1).cumsum(-1)
    return (k <= q) & (ids[batch, q] == ids[batch, k])


def window(x: torch.Tensor) -> torch.Tensor:
    _, q, k = indices(x)
    return (k <= q) & (k > q - 3)


def wide_window(x: torch.Tensor) -> torch.Tensor:
    _, q, k = indices(x)
    return (k <= q) & (k > q - 64)


def chunks(x: torch.Tensor) -> torch.Tensor:
    _, q, k = indices(x)
    return (k <= q) & (q // 3 == k // 3)


def one_chunk(x: torch.Tensor) -> torch.Tensor:
    _, q, k = indices(x)
    return (k <= q) & (q // 8192 == k // 8192)


def later(x: torch.Tensor) -> torch.Tensor:
    _, q, k = indices(x, offset=2)
    return k <= q


def everything(x: torch.Tensor) -> torch.Tensor:
    _, q, k = indices(x)
    return (k >= 0) & (q - k < x.shape[1])


def prefix(x: torch.Tensor) -> torch.Tensor:
    _, q, k = indices(x)
    return (k <= q) | (k < 3)


def not_above(x: torch.Tensor) -> torch.Tensor:
    """De Morgan: neither above the diagonal nor outside the window."""
    _, q, k = indices(x)
    return ~((k > q) | (q - k >= 3))


def buffer(x: torch.Tensor) -> torch.Tensor:
    """A gather from a larger triangle, as GPT-2 kept one."""
    size = x.shape[1]
    return (
        torch.tril(torch.ones(16, 16, dtype=torch.uint8))
        .view(1, 1, 16, 16)
        .bool()[:, :, 2 : 2 + size, 2 : 2 + size]
    )


KNOWN: dict[Any, str] = {
    causal: "causal",
    reversed_operands: "causal",
    triangle: "causal",
    upper_triangle_added: "causal",
    filled_with_the_lowest: "causal",
    as_numbers: "causal",
    chosen: "causal",
    packed_check: "causal",
    packed: "causal+segments",
    window: "causal+window(3)",
    wide_window: "causal",
    chunks: "causal+chunk(3)",
    one_chunk: "causal",
    later: "causal(2)",
    everything: "none",
    prefix: "prefix(3)",
    not_above: "causal+window(3)",
    buffer: "causal",
}


@pytest.mark.parametrize("program", KNOWN, ids=lambda program: program.__name__)
def test_masks_as_people_spell_them(program: Any) -> None:
    assert check(program, x=IDS) == KNOWN[program]


def test_a_mask_that_hides_is_read_the_other_way_round() -> None:
    def above(x: torch.Tensor) -> torch.Tensor:
        _, q, k = indices(x)
        return k > q

    assert check(above, hides=True, x=IDS) == "causal"


def test_padding_is_read_from_its_tensor() -> None:
    def padded(keep: torch.Tensor) -> torch.Tensor:
        batch, q, k = indices(keep)
        return (k <= q) & keep.to(torch.bool)[batch, k]

    assert check(padded, keep=KEEP) == "causal+padding"


def one_more(x: torch.Tensor) -> torch.Tensor:
    _, q, k = indices(x)
    return (k <= q) | ((q == 1) & (k == 4))


def one_less(x: torch.Tensor) -> torch.Tensor:
    _, q, k = indices(x)
    return (k <= q) & ~((q == 4) & (k == 1))


def one_written(x: torch.Tensor) -> torch.Tensor:
    mask = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril()
    mask[1, 4] = True
    return mask


def strict(x: torch.Tensor) -> torch.Tensor:
    _, q, k = indices(x)
    return k < q


def transposed(x: torch.Tensor) -> torch.Tensor:
    _, q, k = indices(x)
    return (k <= q).transpose(-1, -2)


def first_batch_only(x: torch.Tensor) -> torch.Tensor:
    batch, q, k = indices(x)
    return (k <= q) | (batch == 1)


def another_number(x: torch.Tensor) -> torch.Tensor:
    """ALiBi's kind: not only zero and minus infinity."""
    return torch.full((x.shape[1], x.shape[1]), -1.0).triu(1)


def half(x: torch.Tensor) -> torch.Tensor:
    """float16's lowest number leaves a weight beside scores of the same size."""
    lowest = torch.finfo(torch.float16).min
    return torch.full((x.shape[1], x.shape[1]), lowest, dtype=torch.float16).triu(1)


OTHERS = (one_more, one_less, one_written, strict, transposed, first_batch_only)


@pytest.mark.parametrize("program", OTHERS, ids=lambda program: program.__name__)
def test_a_mask_that_differs_in_one_element_is_not_causal(program: Any) -> None:
    found = read(program, x=IDS)
    assert not found.meaning.is_causal
    assert not found.meaning.is_all
    if not found.meaning.problem:
        assert torch.equal(seen(found), visible(found.mask, hides=False))


@pytest.mark.parametrize("program", (another_number, half), ids=lambda program: program.__name__)
def test_what_hides_only_a_little_is_no_mask(program: Any) -> None:
    problem = read(program, x=IDS).meaning.problem
    assert problem == "it adds numbers other than 0 and minus infinity"


def test_integers_are_no_mask() -> None:
    def added(x: torch.Tensor) -> torch.Tensor:
        return triangle(x).long()

    assert "neither what to hide nor what to add" in read(added, x=IDS).meaning.problem


def test_unsigned_numbers_wrap_around() -> None:
    def wrapped(x: torch.Tensor) -> torch.Tensor:
        return torch.full((x.shape[1], x.shape[1]), -1).to(torch.uint8) > 0

    assert read(wrapped, x=IDS).mask.all()
    assert check(wrapped, x=IDS) == "tensor"


def test_it_gives_up_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "MOST_STEPS", 5)
    assert read(packed, x=IDS).meaning.problem == "its formula is too long"


SYMBOLIC = (causal, packed_check, window, chunks, later, everything, filled_with_the_lowest)


@pytest.mark.parametrize("program", SYMBOLIC, ids=lambda program: program.__name__)
def test_sizes_may_be_symbols(program: Any) -> None:
    torch._dynamo.reset()
    found = inductor.capture(program, (), {"x": IDS}, kept, dynamic=True)
    graph = found.visited.graph
    assert any(isinstance(value(node), torch.SymInt) for node in graph.nodes)
    assert str(meaning_in(graph)) == KNOWN[program]
