"""A failure of ours in a whole pass leaves the graph exactly as it came; one at a site leaves the
nodes of that site. Neither is remembered.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import fx
from torch._dynamo.exc import BackendCompilerFailed
from torch.utils.checkpoint import checkpoint

import tile_backend
from tile_backend import errors, inductor, pipeline, trust
from tile_backend.inductor import without_codegen
from tile_backend.lowering import analysis, legality, oracle, rewrite
from tile_backend.lowering.budget import within_budget
from tile_backend.lowering.node import value

Tensor = torch.Tensor


class Block(torch.nn.Module):
    """Three sites: residual add and norm, a gate, a softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.rand(32))
        self.up = torch.nn.Linear(32, 64)

    def forward(self, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        total = x + residual
        normed = self.weight * (total * torch.rsqrt(total.pow(2).mean(-1, True) + 1e-6))
        gate, up = self.up(normed).chunk(2, -1)
        return F.softmax(F.silu(gate) * up, -1), total


class Model(torch.nn.Module):
    """Two blocks; the second lies in a body of its own where `checkpointed`."""

    def __init__(self, checkpointed: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = torch.nn.ModuleList([Block(), Block()])
        self.checkpointed = checkpointed

    def forward(self, x: Tensor) -> Tensor:
        residual = x
        for index, block in enumerate(self.blocks):
            if index == 1 and self.checkpointed:
                x, residual = checkpoint(block, x, residual, use_reentrant=False)
            else:
                x, residual = block(x, residual)
        return x + residual


SITES = 6
"""With and without a body: what a body only reads is looked into as well."""
X = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))


def printed(module: fx.GraphModule) -> list[str]:
    """Every graph of a module with names, targets, arguments, metadata and shapes."""
    return [
        f"{node.format_node()} {sorted(node.meta)} {getattr(value(node), 'shape', None)}"
        for part in analysis.bodies(module)
        for node in part.graph.nodes
    ]


def assert_right(model: torch.nn.Module, result: Tensor) -> None:
    exact = oracle.float64(oracle.widened(model))(oracle.widened(X))
    assert within_budget([result], [exact], [model(X)])


@pytest.fixture
def handed_over(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What the backend got from Dynamo and what it gave to Inductor, in turn."""
    seen: list[list[str]] = []
    compile_, analyse = inductor.Inductor.compile, pipeline.analyse

    def compiling(self: Any, module: fx.GraphModule, inputs: Any) -> Any:
        seen.append(printed(module))
        module.graph.lint()
        return compile_(self, module, inputs)

    def analysing(module: fx.GraphModule, *others: Any, **named: Any) -> Any:
        seen.append(printed(module))
        return analyse(module, *others, **named)

    monkeypatch.setattr(inductor.Inductor, "compile", compiling)
    monkeypatch.setattr(pipeline, "analyse", analysing)
    return seen


def compiled(model: torch.nn.Module, **options: Any) -> Callable[..., Any]:
    torch._dynamo.reset()
    settings = {"tilegym.kernels": "always"} | {f"tilegym.{k}": v for k, v in options.items()}
    return torch.compile(model, backend="tilegym", fullgraph=True, options=settings)


class Injected(Exception):
    """Nothing else raises this."""


def failing(function: Callable[..., Any], turn: int) -> Callable[..., Any]:
    """The function, which does its work and then raises, at its `turn`-th call."""
    calls = 0

    def fails(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        result = function(*args, **kwargs)
        if calls == turn:
            raise Injected(f"call {turn}")
        return result

    return fails


SITE: list[tuple[Any, str, int]] = [
    *((rewrite, "splice", turn) for turn in range(1, SITES + 1)),
    *((rewrite, "annotate", turn) for turn in (1, SITES)),
    *((legality, "call", turn) for turn in (1, SITES)),
]
PASS: list[tuple[Any, str, int]] = [
    (rewrite, "apply", 1),
    (rewrite, "drop_outputs", 1),
    (analysis, "merge", 1),
    (analysis, "Nesting", 1),
    (trust, "settled", 1),
    (pipeline, "facts", 1),
    (pipeline, "identity", 1),
    (analysis.Analysis, "apply", 1),
]


def place_id(place: Any) -> str:
    return getattr(place, "__name__", str(place)).rpartition(".")[2]


@pytest.mark.parametrize("checkpointed", [False, True], ids=["one_graph", "with_a_body"])
@pytest.mark.parametrize(("module", "name", "turn"), PASS, ids=place_id)
def test_a_failure_leaves_the_graph_as_it_was(
    module: Any,
    name: str,
    turn: int,
    checkpointed: bool,
    monkeypatch: pytest.MonkeyPatch,
    handed_over: list[list[str]],
) -> None:
    model = Model(checkpointed)
    with monkeypatch.context() as patch, without_codegen():
        patch.setattr(module, name, failing(getattr(module, name), turn))
        with pytest.warns(errors.InternalFailure, match=f"Injected: call {turn}") as caught:
            result = compiled(model)(X)
    assert [w.category for w in caught].count(errors.InternalFailure) == 1
    report = tile_backend.last_report()
    assert report is not None
    assert (report.title, report.sites) == ("Model", ())
    assert f"looking at the graph failed inside tile-backend: Injected: call {turn}" in str(report)
    before, after = handed_over
    assert before == after
    assert_right(model, result)


@pytest.mark.parametrize("checkpointed", [False, True], ids=["one_graph", "with_a_body"])
@pytest.mark.parametrize(("module", "name", "turn"), SITE, ids=place_id)
def test_a_failure_at_a_site_leaves_its_nodes_as_they_were(
    module: Any,
    name: str,
    turn: int,
    checkpointed: bool,
    monkeypatch: pytest.MonkeyPatch,
    handed_over: list[list[str]],
) -> None:
    """What is put in then is taken out again, also where it has been used already."""
    model = Model(checkpointed)
    with monkeypatch.context() as patch, without_codegen(), warnings.catch_warnings():
        warnings.simplefilter("error", errors.InternalFailure)
        patch.setattr(module, name, failing(getattr(module, name), turn))
        result = compiled(model)(X)
    before, after = handed_over
    ops = [line for line in after if "torch.ops.tilegym" in line]
    report = tile_backend.last_report()
    assert report is not None
    (site,) = (s for s in report.having("declined") if s.reason.kind == "internal_failure")
    assert len(ops) == len(report.fused) >= SITES - 1
    kept = {line.split(" ", 1)[0] for line in after}
    if len(ops) < SITES:  # else a smaller fusion has taken a part of it
        assert {f"%{line.name}" for line in site.before} <= kept
    assert {line.split(" ", 1)[0] for line in before} - kept
    assert_right(model, result)


def test_the_next_compile_rewrites(
    monkeypatch: pytest.MonkeyPatch, handed_over: list[list[str]]
) -> None:
    model = Model(checkpointed=False)
    with monkeypatch.context() as patch, without_codegen():
        patch.setattr(rewrite, "apply", failing(rewrite.apply, 1))
        with pytest.warns(errors.InternalFailure):
            compiled(model)(X)
        patch.setattr(rewrite, "splice", failing(rewrite.splice, 2))
        compiled(model)(X)
    with without_codegen(), warnings.catch_warnings():
        warnings.simplefilter("error", errors.InternalFailure)
        compiled(model)(X)
    assert sum("torch.ops.tilegym" in line for line in handed_over[-1]) == SITES


@pytest.mark.parametrize("strict", ["expect", "no-fallback"])
def test_a_failure_raises_under_strict(strict: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rewrite, "apply", failing(rewrite.apply, 1))
    with without_codegen(), pytest.raises(BackendCompilerFailed) as caught:
        compiled(Model(checkpointed=False), strict=strict)(X)
    assert isinstance(caught.value.inner_exception, errors.PassFailed)
    assert "Injected: call 1" in str(caught.value.inner_exception)
