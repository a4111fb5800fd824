"""What an op is told of a mask, in its own words: it hides what the mask hides, and nothing else.

The arguments are put into the reference's own rule of which key a query sees, with the tensors that
they name. Where they are not all of the mask, they may hide less than it, never more.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tests.core_graph import capture
from tests.mask_programs import Program, Recorder, meaning_in, seen, visible
from tests.mask_programs import read as read_mask
from tests.test_mask_factors import KNOWN, LENGTH, L, S, X, key, query, rows
from tile_backend.lowering.effects import Effects
from tile_backend.lowering.fusion import MaskFacts
from tile_backend.lowering.mask.factors import Padding, Segments
from tile_backend.lowering.mask.facts import facts_of
from tile_backend.lowering.mask.reader import Reader
from tile_backend.lowering.mask.source import Source
from tile_backend.patterns import _attention_blocks as blocks
from tile_backend.patterns import _attention_mask as rule
from tile_backend.patterns import _attention_math as math_of
from tile_backend.patterns import _attention_on_cpu as on_cpu

Tensor = torch.Tensor


@dataclasses.dataclass(frozen=True)
class Told:
    """facts: of the mask. shown: what the reference makes of them. mask: the program's."""

    facts: MaskFacts
    shown: Tensor
    mask: Tensor


def told(program: Program) -> Told:
    """Of a program of x and length, or of one of them."""
    named = program.__code__.co_varnames[: program.__code__.co_argcount]
    given = {name: {"x": X, "length": LENGTH}[name] for name in named}
    captured = capture(program, given)
    reader = Reader(Effects(captured.module.graph))
    meaning = meaning_in(captured.module.graph, reader=reader)
    recorder = Recorder(captured.module, reader.reads.values())
    (mask,) = recorder.run(*captured.inputs)
    length, keys = (1, *mask.shape)[-2:]
    facts = facts_of(meaning, length, keys, reader.effects, torch.device("cpu"))
    values = {read.node: tensor for read, tensor in recorder.tensors.items()}
    arguments = {
        name: argument.made(values.__getitem__) if isinstance(argument, Source) else argument
        for name, argument in facts.arguments.items()
    }
    q, k = torch.zeros(2, 1, length, 1), torch.zeros(2, 1, keys, 1)
    shown = math_of.seen(q, k, **arguments)
    everything = torch.ones(2, 1, length, keys, dtype=torch.bool)
    return Told(facts, everything if shown is None else shown & everything, mask & everything)


def window_behind_the_causal_bound(x: Tensor) -> Tensor:
    return (key() <= query(2)) & (query() - key() < 2)


def chunk_of_another_position(x: Tensor) -> Tensor:
    return (key() <= query(1)) & (query(3) // 2 == key() // 2)


def segments_of_another_position(x: Tensor) -> Tensor:
    return (key() <= query(1)) & (rows(x, query(3)) == rows(x, key()))


def causal_beside_something(x: Tensor) -> Tensor:
    return (key() <= query()) & (x[0][key()] + query() != 3)


def two_paddings(x: Tensor) -> Tensor:
    hidden = (x != 0)[:, None, None, :] & (x.flip(0) != 0)[:, None, None, :]
    return hidden.expand(2, 1, S, L) & (key() <= query())


FACTS: dict[Program, bool] = {
    **dict.fromkeys(KNOWN, True),
    window_behind_the_causal_bound: True,
    chunk_of_another_position: False,
    segments_of_another_position: False,
    causal_beside_something: False,
    two_paddings: False,
}
"""Whether they are all that the mask says, as far as the op has words for it."""
PARTLY = {
    "prefix_of_a_read", "per_entry", "twice_a_read", "not_affine", "decoding_behind_a_prefix",
    "other_padding", "shifted_padding", "padded_for_all",
}  # fmt: skip
"""Of the masks of test_mask_factors those for which it has not."""


@pytest.mark.parametrize("program", FACTS, ids=lambda program: program.__name__)
def test_facts_show_what_the_mask_shows(program: Program) -> None:
    found = told(program)
    assert found.facts.whole is (FACTS[program] and program.__name__ not in PARTLY)
    assert not (found.mask & ~found.shown).any(), "the facts hide more"
    if found.facts.whole:
        assert torch.equal(found.shown, found.mask)


def test_the_tightest_of_two_bounds_counts() -> None:
    def twice(x: Tensor) -> Tensor:
        return (key() <= query(1)) & (key() <= query(2)) & (query() - key() < 3)

    found = read_mask(twice, x=X)
    assert str(found.meaning) == "causal(1)+window(4)"
    assert torch.equal(seen(found), visible(found.mask, hides=False))


def test_segments_of_two_rows_are_no_segments() -> None:
    def crossed(x: Tensor) -> Tensor:
        return x[1][query()] == x[0][key()]

    found = read_mask(crossed, x=X)
    assert not any(isinstance(factor, Segments) for factor in found.meaning.factors)
    assert torch.equal(seen(found), visible(found.mask, hides=False))


def test_padding_is_what_is_not_zero() -> None:
    def other(x: Tensor) -> Tensor:
        return rows(x, key()).expand(2, 1, S, L) != 2

    (factor,) = read_mask(other, x=X).meaning.factors
    assert isinstance(factor, Padding)
    assert not factor.plain


def test_a_running_sum_has_its_first_element() -> None:
    def counted(x: Tensor) -> Tensor:
        places = torch.ones(L, dtype=torch.int64).cumsum(-1)
        return places[None, :] <= torch.arange(S)[:, None] + 2

    found = read_mask(counted, x=X)
    assert str(found.meaning) == "causal(1)"
    assert torch.equal(seen(found), visible(found.mask, hides=False))


# --- what is done with them -----------------------------------------------------------------------


def arguments(**given: Any) -> dict[str, Any]:
    """Of attention, few of which matter here."""
    names = ("mask", "padding", "segments", "offset", "sinks", "softcap", "fill", "window", "chunk")
    q = torch.zeros(1, 4, 512, 8)
    made = {"q": q, "k": q, "v": q, "scale": 0.25, "is_causal": False, "start": 0}
    return {**made, **dict.fromkeys(names), **given}


def test_nothing_stands_beside_a_mask_that_adds_finite_numbers() -> None:
    """A query whose keys are all hidden so has the mean of all values."""
    given = arguments(mask=torch.zeros(512, 512))
    for number, stands in ((-math.inf, True), (-1e30, False)):
        facts = MaskFacts({"is_causal": True}, whole=False, hides_with=number)
        assert (rule.with_facts(given, facts) is not given) is stands


@pytest.mark.parametrize(("start", "plain"), ((0, True), (3, False)))
def test_queries_that_stand_later_are_not_respelled(start: int, plain: bool) -> None:
    """`is_causal` of SDPA says that the first query stands at the first key."""
    found = rule.respelled(arguments(is_causal=True, start=start), arguments())
    assert (found is not None) is plain


def in_blocks(**limits: int) -> tuple[Tensor, Tensor]:
    """By blocks, and with one mask."""
    generator = torch.Generator().manual_seed(0)
    length = 400
    q, k, v = (torch.randn(1, 2, length, 8, generator=generator) for _ in range(3))
    given = {"scale": 0.25, "is_causal": True, "start": 0, "window": None, "chunk": None}
    given |= {"q": q, "k": k, "v": v, "form": math_of.MASKED_SDPA, **limits}
    assert len(blocks.blocks(given) or ()) > 1
    found = on_cpu.run(given)
    assert found is not None
    shown = math_of.seen(q, k, is_causal=True, **limits)
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=shown, scale=0.25)
    return found[0], expected


@pytest.mark.parametrize("window", (1, 100, 300))
def test_blocks_of_a_window(window: int) -> None:
    torch.testing.assert_close(*in_blocks(window=window))


@pytest.mark.parametrize("chunk", (128, 150))
def test_blocks_of_a_chunk(chunk: int) -> None:
    torch.testing.assert_close(*in_blocks(chunk=chunk))
