"""Our part of a compile adds no guard: as many graphs as with backend="inductor", no guard more.

Programs are called with several batch sizes and lengths, dynamic=None and dynamic=True, and with
sizes marked dynamic; see guard_record. What is too much for `make test` is in test_guards_all.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import tile_backend
from tests import core_material
from tests.core_material import Case
from tests.guard_record import more, recorded
from tests.norm_program import norm
from tile_backend import ReasonKind
from tile_backend.inductor import without_codegen

ALWAYS: Mapping[str, Any] = {"tilegym.kernels": "always"}
OPTIONS: Mapping[str, Mapping[str, Any]] = {"auto": {}, "always": ALWAYS}


def causal(x: Tensor) -> Tensor:
    mask = torch.ones(x.shape[-2], x.shape[-2], dtype=torch.bool, device=x.device).tril()
    return F.scaled_dot_product_attention(x, x, x, attn_mask=mask)


def masked(x: Tensor, mask: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(x, x, x, attn_mask=mask)


def batches(*sizes: int) -> list[tuple[Tensor, Tensor]]:
    return [(torch.randn(size, 7, 16), torch.zeros(7, 7)) for size in sizes]


# --- the report -----------------------------------------------------------------------------------


@pytest.mark.parametrize("options", OPTIONS)
def test_describing_attention_compiles_nothing_more(options: str, graphs_only: None) -> None:
    """[B, S, D] is one head to attention: how many heads share a key is a size that changes."""
    with torch.no_grad():
        ours = recorded(masked, batches(2, 3, 4), "tilegym", OPTIONS[options])
    assert len(ours.graphs) == 2
    report = tile_backend.last_report()
    assert report is not None
    assert [site.fusion for site in report.sites] == ["attention"] * 2


def test_a_batch_that_is_marked_dynamic_stays_dynamic(graphs_only: None) -> None:
    calls = batches(3, 5)
    for x, _ in calls:
        torch._dynamo.mark_dynamic(x, 0)
    with torch.no_grad():
        assert len(recorded(masked, calls, "tilegym", {}).graphs) == 1


def test_a_dump_and_remarks_ask_for_nothing(tmp_path: Any, graphs_only: None) -> None:
    options = {"tilegym.report_dir": str(tmp_path), "tilegym.remarks": "fused,declined,near-miss"}
    with torch.no_grad():
        ours = recorded(masked, batches(2, 3, 4), "tilegym", options)
    assert len(ours.graphs) == 2
    assert (tmp_path / "report.json").exists()


def test_sizes_that_became_numbers_are_not_called_dynamic(graphs_only: None) -> None:
    project = torch.nn.Linear(64, 64, bias=False)

    def program(x: Tensor) -> Tensor:
        return F.silu(project(x)) * x

    compiled = torch.compile(program, backend="tilegym", dynamic=True)
    compiled(torch.randn(3, 64))
    report = tile_backend.last_report()
    assert report is not None
    (symbol,) = report.graphs[0].symbols
    assert symbol.startswith("s")
    assert f"{symbol} dynamic" in report.to_text().splitlines()[0]
    call = report.sites[0].call
    assert call is not None
    assert call.results[0].shape == (symbol, 64)


# --- numbers that change --------------------------------------------------------------------------


def test_an_epsilon_that_changes_is_one_graph_with_and_without_us(graphs_only: None) -> None:
    """It is an input of the graph: a kernel, which takes numbers, is left out, and says why."""
    x, weight = torch.randn(4, 16), torch.rand(16)
    calls = [(x, weight, eps) for eps in (1e-6, 0.5, 2.0)]
    for options in OPTIONS.values():
        with torch.no_grad():
            assert more(norm, calls, options, dynamic=True) == []
    report = tile_backend.last_report()
    assert report is not None
    (site,) = report.sites
    assert (site.status, site.decision) == ("fused", "reference")
    assert site.fallback is not None
    assert site.fallback.kind is ReasonKind.SCALAR_IS_TENSOR
    assert "eps may change from call to call" in site.fallback.text


def test_on_a_cpu_such_a_norm_is_left_to_inductor_like_any_other(graphs_only: None) -> None:
    with torch.no_grad():
        recorded(norm, [(torch.randn(4, 16), torch.rand(16), 1e-6)], "tilegym", {}, dynamic=True)
    report = tile_backend.last_report()
    assert report is not None
    assert report.counts == {"rms_norm": 1}
    assert report.sites[0].fallback is None


# --- spellings and programs -----------------------------------------------------------------------


def sized_calls(case: Case, gradient: bool) -> list[tuple[Tensor, ...]]:
    """Three batch sizes, two lengths."""
    found = []
    for batch, length in ((2, 5), (3, 5), (4, 6)):
        inputs = case.inputs(sizes=core_material.sizes_with(batch, length)).values()
        found.append(tuple(t.requires_grad_(gradient and t.is_floating_point()) for t in inputs))
    return found


def of_tensors(case: Case) -> Callable[..., Any]:
    names = list(case.inputs())

    def program(*tensors: Tensor) -> Any:
        return case.function(**dict(zip(names, tensors, strict=True)))

    return program


def first_case(name: str, title: str) -> Case:
    pairs = core_material.spellings()
    (pair,) = [p for p in pairs if (p[0].name, p[1].title) == (name, title)]
    return core_material.cases(*pair, torch.float32)[0]


CHOSEN = (
    ("rms_norm", "functional"),
    ("add_rms_norm", "pre_cast_after_weight"),
    ("rotary", "half_once"),
    ("attention", "sdpa_masked_gqa_repeat_kv"),
    ("attention", "eager_scaled_q"),
    ("silu_mul", "functional"),
    ("layer_norm", "functional"),
    ("cross_entropy", "as_it_is"),
    ("softmax", "functional"),
)


@pytest.mark.parametrize(("name", "title"), CHOSEN)
def test_a_spelling_of_each_fusion(name: str, title: str, graphs_only: None) -> None:
    case = first_case(name, title)
    with torch.no_grad():
        assert more(of_tensors(case), sized_calls(case, False), ALWAYS, dynamic=True) == []


@pytest.mark.parametrize("dynamic", (None, True))
def test_a_causal_mask_that_is_respelled(dynamic: bool | None, graphs_only: None) -> None:
    calls = [(torch.randn(b, 4, n, 16),) for b, n in ((2, 6), (3, 6), (4, 9))]
    with torch.no_grad():
        assert more(causal, calls, {}, dynamic) == []
    report = tile_backend.last_report()
    assert report is not None
    assert report.sites
    for site in report.sites:
        if dynamic:  # the width of the heads is a symbol as well, and so is the scale
            assert site.reason is not None
            assert site.reason.kind is tile_backend.ReasonKind.SHAPE_UNPROVABLE
        else:
            assert site.decision is not None
            assert site.decision.respelled


def test_in_training(graphs_only: None) -> None:
    """Forward and backward ops of ours, on sizes that are symbols."""

    def program(x: Tensor, weight: Tensor) -> Tensor:
        x = F.rms_norm(x, (16,), weight, 1e-6)
        return causal(x[:, None])[:, 0] + F.silu(x) * x

    weight = torch.rand(16, requires_grad=True)
    calls = [
        (torch.randn(b, n, 16, requires_grad=True), weight) for b, n in ((2, 6), (3, 6), (4, 9))
    ]
    assert more(program, calls, ALWAYS, dynamic=True) == []


def test_two_norms_in_a_row(graphs_only: None) -> None:
    sizes = itertools.product((2, 3), (5, 6))
    calls = [(torch.randn(b, n, 16), torch.rand(16)) for b, n in sizes]
    with torch.no_grad():
        assert more(lambda x, w: norm(norm(x, w), w, 1e-5), calls, ALWAYS, dynamic=True) == []


# --- the test of the tests ------------------------------------------------------------------------


def test_the_record_sees_a_guard() -> None:
    """A program that asks more has more graphs."""

    def asks(x: Tensor) -> Tensor:
        return x + 1 if x.shape[0] == 3 else x - 1

    calls = [(torch.randn(n, 4),) for n in (3, 5, 6)]
    with without_codegen():
        assert len(recorded(asks, calls, "tilegym", {}, dynamic=True).graphs) == 2
        assert len(recorded(torch.relu, calls, "tilegym", {}, dynamic=True).graphs) == 1
