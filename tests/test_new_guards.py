"""What would be a new guard is refused while we look at a graph, and declines the site in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import tile_backend
from tests.guard_record import more
from tile_backend import Fusion, Op, Reason, ReasonKind, Spelling
from tile_backend.inductor import without_codegen
from tile_backend.lowering import guards, rewrite
from tile_backend.lowering.fusion import same_as
from tile_backend.registry import unregister

ALWAYS: Mapping[str, Any] = {"tilegym.kernels": "always"}

# --- limits and other questions of a fusion's -----------------------------------------------------


def relu_scaled(x: Tensor) -> Tensor:
    return torch.relu(x) * 2.0


def at_most_64(arguments: Mapping[str, Any]) -> Reason | None:
    wide = arguments["x"].shape[-1] > 64
    return Reason(ReasonKind.SHAPE_LIMIT, "it takes at most 64 features") if wide else None


def test_a_limit_of_a_size_that_is_open_declines_in_words(graphs_only: None) -> None:
    op = Op("relu_scaled_64", "(Tensor x) -> Tensor", relu_scaled, same_as("x"))
    fusion = Fusion(
        name="relu_scaled_64",
        summary="relu(x) * 2",
        ops=(op,),
        holes={"x": tile_backend.Tensor("... D")},
        spellings=(Spelling(relu_scaled),),
        anchors=("relu",),
        limits=(at_most_64,),
    )
    tile_backend.register(fusion)
    try:
        for dynamic, statuses in ((True, ["declined"]), (None, ["fused", "declined"])):
            calls = [(torch.randn(4, width),) for width in (32, 48, 100)]
            assert more(relu_scaled, calls, ALWAYS, dynamic) == []
            report = tile_backend.last_report()
            assert report is not None
            assert [site.status for site in report.sites] == statuses
            reasons = [site.reason for site in report.sites if site.reason is not None]
            assert [reason.kind for reason in reasons] == [ReasonKind.SHAPE_UNPROVABLE]
            assert "it would have to know whether s" in reasons[0].text
    finally:
        unregister(fusion.name)


# --- the code that goes in ------------------------------------------------------------------------


def test_the_new_code_is_tried_before_it_goes_in(
    graphs_only: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What only putting it in would ask leaves the original ops, and the report says so."""
    like = rewrite.result_like

    def asks(proxy: Any, old: Tensor, new: Tensor) -> Any:
        return proxy if old.shape[0] == 1000 else like(proxy, old, new)

    monkeypatch.setattr(rewrite, "result_like", asks)
    calls = [(torch.randn(rows, 16),) for rows in (4, 5)]
    with torch.no_grad():
        assert more(lambda x: F.silu(x) * x, calls, ALWAYS, dynamic=True) == []
    report = tile_backend.last_report()
    assert report is not None
    (site,) = report.sites
    assert (site.status, site.decision) == ("fused", "reference")
    assert site.fallback is not None
    assert site.fallback.kind is ReasonKind.SHAPE_UNPROVABLE
    assert "it would have to know whether" in site.fallback.text


# --- the mechanism --------------------------------------------------------------------------------


def asked_of(question: Callable[[Any], Any], x: Tensor) -> list[str]:
    """What a question about the graph of x + 1 comes to; the guards are what they were."""
    said: list[str] = []

    def backend(module: torch.fx.GraphModule, inputs: Sequence[Any]) -> Any:
        environment = guards.environment_of(module.graph)
        assert environment is not None
        before = [str(guard.expr) for guard in environment.guards]
        fake = next(n.meta["example_value"] for n in module.graph.nodes if n.target == torch.add)
        try:
            with guards.none_added(module.graph), guards.none_added(module.graph):
                said.append(str(question(fake)))
        except guards.NewGuard as error:
            said.append(error.text)
        assert [str(guard.expr) for guard in environment.guards] == before
        assert "_check_frozen" not in vars(environment)
        return module.forward

    torch._dynamo.reset()
    torch.compile(lambda x: torch.add(x, 1), backend=backend, dynamic=True)(x)
    return said


@pytest.mark.parametrize(
    ("question", "words"),
    (
        (lambda t: int(t.shape[0]), "it would have to know what s"),
        (lambda t: t.shape[0] == 3, "it would have to know whether"),
        (lambda t: t.shape[0] == t.shape[1], "it would have to know whether"),
        (lambda t: t.new_empty(3, 5) + t, "it would have to know whether"),
        (lambda t: bool(t.shape[0] > 1), "True"),
        (lambda t: t.shape[0] == t.shape[0], "True"),
        (lambda t: t.dim(), "2"),
    ),
)
def test_a_question_is_answered_or_refused(question: Callable[[Any], Any], words: str) -> None:
    def settled(fake: Tensor) -> Any:
        answer = question(fake)
        return bool(answer) if isinstance(answer, torch.SymBool) else answer

    (said,) = asked_of(settled, torch.randn(3, 5))
    assert said.startswith(words), said


def test_the_mechanism_is_what_torch_asks() -> None:
    """A version of torch without it would add guards silently."""
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    assert callable(ShapeEnv._check_frozen)
    assert callable(ShapeEnv._suppress_guards_tls)


def test_what_torch_cannot_tell_without_a_guard_is_no_failure_of_ours() -> None:
    """The loss of each token of [B, V, T]: whether B * T is 1 would be a guard."""

    def program(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(logits.transpose(1, 2), labels, reduction="none").sum(-1)

    torch._dynamo.reset()
    options = {"tilegym.kernels": "always"}
    compiled = torch.compile(program, backend="tilegym", dynamic=True, options=options)
    given = torch.randn(3, 8, 50), torch.randint(50, (3, 8))
    with torch.no_grad(), without_codegen():
        torch.testing.assert_close(compiled(*given), program(*given))
    report = tile_backend.last_report()
    assert report is not None
    (site,) = report.sites
    reasons = [reason for reason in (site.reason, site.fallback) if reason is not None]
    assert [reason.kind for reason in reasons] == [ReasonKind.SHAPE_UNPROVABLE]
