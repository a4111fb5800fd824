"""What factors say in their fields, and which masks are proven to leave every query a key."""

from __future__ import annotations

from typing import Any

import pytest
import sympy
import torch

from tests.core_graph import kept
from tests.mask_programs import Found, check, meaning_in, read
from tile_backend import inductor
from tile_backend.lowering.mask.factors import NOTHING, Causal, Padding, Segments, Window

S, L = 4, 7
X = torch.tensor([[2, 0, 1, 3, 0, 0, 1], [3, 3, 0, 2, 2, 2, 2]])
LENGTH = torch.tensor([3])


def key() -> torch.Tensor:
    return torch.arange(L)[None, :]


def query(offset: Any = 0) -> torch.Tensor:
    return (torch.arange(S) + offset)[:, None]


def rows(x: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
    return x[torch.arange(2)[:, None, None, None], place[None, None]]


def both_sides(x: torch.Tensor) -> torch.Tensor:
    return (query() - key()).abs() < 3


def inclusive(x: torch.Tensor) -> torch.Tensor:
    """As Transformers writes it."""
    return abs(query() - key()) <= 2


def both_sides_later(x: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
    return (query(length) - key()).abs() < 3


def unequal_sides(x: torch.Tensor) -> torch.Tensor:
    """One key ahead and two back: a query that stands one further on sees none ahead."""
    return (key() - query() < 2) & (query() - key() < 3)


def late_window(x: torch.Tensor) -> torch.Tensor:
    return (key() <= query(3)) & (key() > query(3) - 2)


def late_chunk(x: torch.Tensor) -> torch.Tensor:
    return (key() <= query(3)) & (query(3) // 4 == key() // 4)


def chunk_at_a_read(x: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
    return (key() <= query(length)) & (query(length) // 4 == key() // 4)


def first_chunk_is_not_all(x: torch.Tensor) -> torch.Tensor:
    return query(4) // 7 == key() // 7


def only_a_window(x: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
    return query(length) - key() < 4


def bidirectional_and_causal(x: torch.Tensor) -> torch.Tensor:
    return ((query() - key()).abs() < 3) & (key() <= query())


def late_segments(x: torch.Tensor) -> torch.Tensor:
    return (key() <= query(3)) & (rows(x, query(3)) == rows(x, key()))


def one_row_of_segments(x: torch.Tensor) -> torch.Tensor:
    return x[0][query()] == x[0][key()]


def first_entry(x: torch.Tensor) -> torch.Tensor:
    return (x[:1] != 0)[:, None, None, :].expand(2, 1, S, L)


def other_padding(x: torch.Tensor) -> torch.Tensor:
    return rows(x, key()).expand(2, 1, S, L) == 2


def shifted_padding(x: torch.Tensor) -> torch.Tensor:
    return x.bool()[:, None, None, 1:5].expand(2, 1, S, 4)


def prefix_of_a_read(x: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
    return (key() < length) | (key() <= query(1))


def per_entry(x: torch.Tensor) -> torch.Tensor:
    """No kernel has an offset for each batch entry."""
    return key() <= query() + x[:, 0][:, None, None, None]


def twice_a_read(x: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
    return key() <= query(2 * length)


def one_of_many(x: torch.Tensor) -> torch.Tensor:
    return key() <= query(x[1, 3])


def not_affine(x: torch.Tensor) -> torch.Tensor:
    return key() <= x[0, :S][:, None]


def decoding(x: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
    """One query, whose index is 0: its position is the read alone."""
    position = (torch.arange(1) + length)[:, None]
    return (key() <= position) & (key() > position - 3) & (position // 4 == key() // 4)


def decoding_at_a_size(x: torch.Tensor) -> torch.Tensor:
    position = (torch.arange(1) + 5)[:, None]
    return (key() <= position) & (x[0][position] == x[0][key()])


def decoding_behind_a_prefix(x: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
    """Of a single query either bound may be the prefix."""
    return (key() < 2) | (key() <= (torch.arange(1) + length)[:, None])


def padded_for_all(x: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
    """Of several queries none is at index 0 alone."""
    return (key() <= length).expand(S, L)


KNOWN: dict[Any, tuple[str, bool]] = {
    both_sides: ("ahead(3)+window(3)", True),
    inclusive: ("ahead(3)+window(3)", True),
    both_sides_later: ("ahead(3)+window(3)", False),
    unequal_sides: ("causal(1)+window(4)", True),
    late_window: ("causal(3)+window(2)", True),
    late_chunk: ("causal(3)+chunk(4)", True),
    chunk_at_a_read: ("causal(l_length_)+chunk(4)", False),
    first_chunk_is_not_all: ("chunk(7)", False),
    only_a_window: ("window(4)", False),
    bidirectional_and_causal: ("causal+window(3)", True),
    late_segments: ("causal(3)+segments", True),
    one_row_of_segments: ("segments", True),
    first_entry: ("padding", False),
    other_padding: ("padding", False),
    shifted_padding: ("padding", False),
    prefix_of_a_read: ("prefix(l_length_) at 1", True),
    per_entry: ("tensor", False),
    twice_a_read: ("tensor", False),
    one_of_many: ("causal(l_x_[1, 3])", False),
    not_affine: ("tensor", False),
    decoding: ("causal(l_length_)+window(3)+chunk(4)", False),
    decoding_at_a_size: ("causal(5)+segments", True),
    decoding_behind_a_prefix: ("prefix(l_length_ + 1) at 1", True),
    padded_for_all: ("padding", False),
}
"""The words, and whether no query can be left without a key."""


def found(program: Any) -> Found:
    named = program.__code__.co_varnames[: program.__code__.co_argcount]
    return read(program, **{n: {"x": X, "length": LENGTH}[n] for n in named})


@pytest.mark.parametrize("program", KNOWN, ids=lambda program: program.__name__)
def test_a_product_has_one_offset(program: Any) -> None:
    words, never_empty = KNOWN[program]
    named = program.__code__.co_varnames[: program.__code__.co_argcount]
    given = {n: {"x": X, "length": LENGTH}[n] for n in named}
    assert check(program, **given) == words
    result = read(program, **given)
    assert result.never_empty is never_empty
    assert result.meaning.offset is not None


def test_bounds_of_two_positions_have_no_offset_in_common() -> None:
    def mixed(x: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
        return (key() <= query(length)) & (query(1) // 4 == key() // 4)

    assert found(mixed).meaning.offset is None
    assert check(mixed, x=X, length=LENGTH) == "causal(l_length_)+chunk(4)"


def test_a_window_stands_where_the_causal_bound_does() -> None:
    causal, window = found(late_window).meaning.factors
    assert isinstance(causal, Causal)
    assert isinstance(window, Window)
    assert (causal.offset, window.size) == (window.offset, 2)
    assert causal.offset.known == 3


def test_a_padding_mask_is_its_tensor() -> None:
    def plain(x: torch.Tensor) -> torch.Tensor:
        return (x != 0)[:, None, None, :].expand(2, 1, S, L)

    def nonzero(x: torch.Tensor) -> torch.Tensor:
        return x.bool()[:, None, None, :].expand(2, 1, S, L)

    def hidden(x: torch.Tensor) -> torch.Tensor:
        return ~nonzero(x)

    cases = (plain, True), (nonzero, True), (first_entry, False), (other_padding, None)
    for program, by_batch in (*cases, (shifted_padding, None), (hidden, None)):
        (factor,) = found(program).meaning.factors
        assert isinstance(factor, Padding)
        assert factor.plain is (by_batch is not None)
        assert factor.by_batch is bool(by_batch)


def test_segments_are_their_tensor() -> None:
    for program, by_batch, dimensions in (
        (late_segments, True, 2),
        (one_row_of_segments, False, 2),
    ):
        result = found(program)
        factor = result.meaning.factors[-1]
        assert isinstance(factor, Segments)
        assert factor.by_batch is by_batch
        assert result.tensors[factor.ids].dim() == dimensions


def strict(x: torch.Tensor) -> torch.Tensor:
    return key() < query()


def past_the_last_key(x: torch.Tensor) -> torch.Tensor:
    """The last query stands at 7, and there is no key within its window."""
    return (query(4) - key() < 1) & (key() <= query(4))


def empty_window(x: torch.Tensor) -> torch.Tensor:
    return (key() <= query()) & (key() > query())


def window_of_nothing(x: torch.Tensor) -> torch.Tensor:
    """The same as a window whose size is 0."""
    return (key() <= query()) & (query() - key() < 0)


@pytest.mark.parametrize("program", (strict, past_the_last_key, empty_window, window_of_nothing))
def test_a_mask_that_leaves_a_query_nothing_is_not_called_safe(program: Any) -> None:
    result = found(program)
    assert not result.mask.any(-1).all()
    assert not result.never_empty


def test_offsets_may_be_sizes() -> None:
    """Keys that came before, as a cache that grows has them."""

    def cached(new: torch.Tensor, old: torch.Tensor) -> torch.Tensor:
        past, length = old.shape[0], new.shape[0]
        q = torch.arange(past, past + length)[:, None]
        k = torch.arange(past + length)[None, :]
        return (k <= q) & (k > q - 16) & (q // 8 == k // 8)

    torch._dynamo.reset()
    inputs = {"new": torch.zeros(20), "old": torch.zeros(30)}
    graph = inductor.capture(cached, (), inputs, kept, dynamic=True).visited.graph
    meaning = meaning_in(graph)
    causal, window, chunk = meaning.factors
    assert meaning.offset is not None
    assert meaning.offset != NOTHING
    assert isinstance(meaning.offset.known, sympy.Symbol)
    assert (str(window), str(chunk)) == ("window(16)", "chunk(8)")
    assert causal.condition.has(meaning.offset.known)
