"""A failure of ours at one site costs that site: the others are rewritten all the same.

Every step that works on one candidate, or on one node, is made to fail for one of two sites.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

import tile_backend
from tests.fake_compiler import Tileiras
from tests.models.check import assert_like_eager
from tests.planted_failures import (
    ALWAYS,
    VICTIM,
    WORDS,
    Place,
    handed_over,
    inputs,
    is_victim,
    program,
    title,
)
from tile_backend.lowering import (
    choice,
    describe,
    gate,
    kernel_code,
    legality,
    plan,
    rewrite,
    site_kernels,
)
from tile_backend.lowering.reason import ReasonKind
from tile_backend.lowering.site import Decision

Tensor = torch.Tensor


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Our ops in each graph that Inductor gets."""
    return handed_over(monkeypatch)


AUTO = {"tilegym.kernels": "auto"}
ON_A_CPU = (
    Place(plan, "extent"),
    Place(plan, "judged"),
    Place(plan, "fake_call"),
    Place(legality, "call"),
    Place(legality, "structure"),
    Place(legality, "same_results"),
    Place(gate, "decide"),
    Place(describe, "fused"),
    Place(describe, "op_call"),
    Place(describe, "bindings"),
    Place(describe, "written_calls"),
)
PUT_IN = (
    Place(rewrite, "splice"),
    Place(rewrite, "splice", late=True),
    Place(rewrite, "replacement"),
    Place(rewrite, "replacement", late=True),
    Place(rewrite, "bound_operands"),
    Place(rewrite, "annotate", wanted=lambda made, candidate: is_victim(candidate)),
    Place(rewrite, "annotate", wanted=lambda made, candidate: is_victim(candidate), late=True),
)
ON_A_GPU = (
    Place(gate, "weighs"),
    Place(gate, "able"),
    Place(gate, "refused"),
    Place(site_kernels.LaunchSite, "all_of"),
    Place(site_kernels, "needs_at"),
    Place(site_kernels, "recipe"),
    Place(kernel_code.Code, "_asked", wanted=lambda code, compiles: code.kernel.name == VICTIM),
)
"""Of these `gate.weighs` and `able` are asked under "auto" only."""


def assert_declined(report: tile_backend.Report) -> None:
    """The victim is declined for the planted failure; a norm without its weight is one as well."""
    sites = [s for s in report.having("declined") if s.fusion == VICTIM]
    assert sites
    assert len(sites) == len(report.having("declined"))
    for site in sites:
        assert site.reason is not None
        assert site.reason.kind is ReasonKind.INTERNAL_FAILURE
        assert WORDS in site.reason.text
        assert "report it" in site.reason.fix
        assert site.decision is None


@pytest.mark.parametrize("place", (*ON_A_CPU, *PUT_IN), ids=title)
def test_a_site_that_fails_is_declined_alone(
    place: Place, monkeypatch: pytest.MonkeyPatch, graphs: list[list[str]]
) -> None:
    with monkeypatch.context() as patch:
        place.plant(patch)
        report = assert_like_eager(program, *inputs(), options=ALWAYS)
    assert graphs == [["silu_mul"]]
    assert report.counts == {"silu_mul": 1}
    assert_declined(report)


@pytest.mark.parametrize("place", (*ON_A_CPU, *PUT_IN), ids=title)
def test_explain_says_the_same(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TILEGYM_KERNELS", "always")
    place.plant(monkeypatch)
    report = tile_backend.explain(program, *inputs())
    assert report.counts == {"silu_mul": 1}
    assert_declined(report)
    assert len(report.having("near-miss")) == 1
    assert WORDS in report.to_text()


@pytest.mark.parametrize("place", ON_A_GPU, ids=title)
def test_so_is_one_whose_kernel_cannot_be_planned_or_made(
    place: Place, tileiras: Tileiras, monkeypatch: pytest.MonkeyPatch, graphs: list[list[str]]
) -> None:
    monkeypatch.setattr(gate, "device_of", lambda call: torch.device("cuda", 0))
    monkeypatch.setattr(gate, "capability_of", lambda index: (9, 0))
    monkeypatch.setattr(choice, "answers", everywhere)
    place.plant(monkeypatch)
    options = AUTO if place.name in ("weighs", "able") else ALWAYS
    report = assert_like_eager(program, *inputs(), options=options)
    assert graphs == [["silu_mul"]]
    assert [str(site.decision) for site in report.fused] == ["kernel"]
    assert_declined(report)


def everywhere(some: Any, able: Any, *others: Any) -> Any:
    """Evidence that says kernel."""
    return {root: Decision("kernel", "said") for root in able}


def test_so_is_one_for_which_there_is_no_evidence(
    tileiras: Tileiras, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two slices, one of which fails: nobody knows what is best there."""
    monkeypatch.setattr(gate, "device_of", lambda call: torch.device("cuda", 0))
    monkeypatch.setattr(gate, "capability_of", lambda index: (9, 0))
    Place(choice, "answers").plant(monkeypatch)
    report = assert_like_eager(program, *inputs(), options=AUTO)
    assert report.counts == {"silu_mul": 1}
    assert_declined(report)
