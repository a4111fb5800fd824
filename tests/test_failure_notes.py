"""A failure of ours that is no site's costs what it was about, and the report of its graph says so.

A node that cannot be read, a near miss that cannot be looked for, a mask that cannot be understood.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tests.models.check import assert_like_eager
from tests.planted_failures import (
    ALWAYS,
    WORDS,
    Place,
    always,
    at_nodes,
    handed_over,
    inputs,
    is_victim,
    program,
)
from tile_backend.lowering import (
    analysis,
    canonical,
    describe,
    in_place,
    inline,
    match,
    merge,
    near_miss,
    rewrite,
    safe_spelling,
)
from tile_backend.lowering.mask import proof

Tensor = torch.Tensor


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Our ops in each graph that Inductor gets."""
    return handed_over(monkeypatch)


@dataclasses.dataclass(frozen=True)
class Noted:
    """A failure that no site tells of. counts: of what is rewritten all the same."""

    place: Place
    words: str
    counts: dict[str, int]
    program: Callable[..., Any] = program
    given: Callable[[], list[Tensor]] = inputs


def rotated(x: Tensor, y: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, ...]:
    """q and k by the same tables, which are one call, and a gate."""

    def turned(t: Tensor) -> Tensor:
        first, second = t[..., : t.shape[-1] // 2], t[..., t.shape[-1] // 2 :]
        return t * cos + torch.cat((-second, first), -1) * sin

    q, k = turned(x), turned(y)
    return q, k, F.silu(x) * y


def rotary_inputs() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(6, 32, generator=generator) for _ in range(4)]


def masked(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Attention with a causal mask that the program writes out, and a gate."""
    mask = torch.ones(q.shape[-2], q.shape[-2], dtype=torch.bool).tril()
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask), F.silu(q) * k


def heads() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(1, 2, 6, 8, generator=generator) for _ in range(3)]


def in_place_program(x: Tensor, weight: Tensor, side: Tensor, up: Tensor) -> Tensor:
    """Arithmetic in place, which is written out, in front of a norm."""
    total = x + side
    total += up
    normed = weight * (total * torch.rsqrt(total.pow(2).mean(-1, True) + 1e-6))
    return normed + F.silu(side) * up


def multihead(q: Tensor, weight: Tensor, bias: Tensor, out: Tensor) -> tuple[Tensor, Tensor]:
    """What Dynamo keeps as one node, with attention inside, and a gate."""
    found, _ = F.multi_head_attention_forward(
        *(q, q, q, 8, 2, weight, bias, None, None, False, 0.0, out, bias[:8]),
        training=False,
        need_weights=False,
    )
    return found, F.silu(q) * q


def multihead_inputs() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((6, 3, 8), (24, 8), (24,), (8, 8))
    return [torch.randn(shape, generator=generator) for shape in shapes]


BOTH = {"rms_norm": 1, "silu_mul": 1}
GATE = {"silu_mul": 1}
NOTED = (
    Noted(Place(match, "match_of"), "matching rms_norm", GATE),
    Noted(
        Place(canonical.CanonicalGraph, "_known", at_nodes("rsqrt")),
        "naming what is done at `rsqrt`",
        GATE,
    ),
    Noted(
        Place(canonical.CanonicalGraph, "_add", at_nodes("rsqrt")),
        "reading the graph at `rsqrt`",
        GATE,
    ),
    Noted(Place(merge, "together", always), "merging it", {"rotary": 2}, rotated, rotary_inputs),
    Noted(Place(merge, "joined", always), "merging it", {"rotary": 2}, rotated, rotary_inputs),
    Noted(
        Place(proof, "applied", always),
        "reading its mask",
        {"attention": 1, "silu_mul": 1},
        masked,
        heads,
    ),
    Noted(Place(analysis, "divided"), "dividing it into steps", BOTH),
    Noted(Place(near_miss.NearMisses, "look", always), "looking for a near miss", BOTH),
    Noted(Place(near_miss.NearMisses, "best", always), "looking for a near miss", BOTH),
    Noted(Place(near_miss, "anchors", always), "looking for anchors", BOTH),
    Noted(Place(near_miss, "reachable", always), "looking for a near miss", BOTH),
    Noted(Place(describe, "near_miss", always), "describing it", BOTH),
    Noted(Place(describe, "snippet", always), "describing it", BOTH),
    Noted(Place(rewrite, "erase", lambda graph, c: is_victim(c)), "clearing up after it", BOTH),
    Noted(Place(safe_spelling, "respelled", always), "respelling it for Inductor", BOTH),
    Noted(Place(in_place, "written_out", always), "without the write", GATE, in_place_program),
    Noted(Place(in_place, "gives_the_same", always), "without the write", GATE, in_place_program),
    Noted(
        Place(inline, "inlined", always),
        "writing it out",
        GATE,
        multihead,
        multihead_inputs,
    ),
    Noted(
        Place(inline, "composite", always, late=True),
        "writing it out",
        GATE,
        multihead,
        multihead_inputs,
    ),
)


@pytest.mark.parametrize("noted", NOTED, ids=lambda noted: noted.place.title)
def test_a_failure_that_is_no_sites_is_noted(
    noted: Noted, monkeypatch: pytest.MonkeyPatch, graphs: list[list[str]]
) -> None:
    with monkeypatch.context() as patch:
        noted.place.plant(patch)
        with torch.no_grad():
            report = assert_like_eager(noted.program, *noted.given(), options=ALWAYS)
    assert {n: c for n, c in report.counts.items() if n in noted.counts} == noted.counts
    assert len(graphs[0]) >= len(noted.counts), "the ops are in the graph"
    texts = [why.text for graph in report.graphs for why in graph.failures]
    assert any(noted.words in text and WORDS in text for text in texts), texts
    assert texts[0] in report.to_text()
