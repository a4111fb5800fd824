"""Graphs as text: they parse, are nested by module, use the report's names, mark what changed."""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.utils.checkpoint import checkpoint

import tile_backend
from tests.norm_program import x_and_more
from tile_backend.lowering import listing, python_text
from tile_backend.report import Report


class Norm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(32))

    def forward(self, x: Tensor) -> Tensor:
        return self.gain * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = Norm()
        self.linear = nn.Linear(32, 32)

    def forward(self, x: Tensor) -> Tensor:
        return x - self.linear(self.norm(x))


class Model(nn.Module):
    def __init__(self, checkpointed: bool = False) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(), Block()])
        self.checkpointed = checkpointed

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if self.checkpointed else block(x)
        return x


def texts(function: Callable[..., Any], *inputs: Any) -> tuple[str, str]:
    report = tile_backend.explain(function, *inputs)
    found = report.texts[0]
    for text in found.values():
        ast.parse(text)
    return found["before"], found["after"]


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TILEGYM_KERNELS", "always")


def test_ops_are_nested_by_module_with_their_source(always: None) -> None:
    before, after = texts(Model(), x_and_more()[0])
    lines = [line.rstrip() for line in before.splitlines()]
    start = lines.index('    with module("blocks.0"):  # Block')
    assert lines[start + 1] == '        with module("blocks.0.norm"):  # Norm'
    assert lines[start + 2].startswith("            pow_1 = l_x_.pow(2)  ")
    assert "  # - rms_norm  float32[4, 6, 32]  test_graph_listing.py:" in lines[start + 2]
    assert lines[start + 2].endswith("torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))")
    assert lines[start + 3].endswith('  "')
    assert '        with module("blocks.0.linear"):  # Linear' in lines
    assert 'self["blocks.0.norm.gain"]' in before
    (op,) = [x for x in after.splitlines() if "tilegym.rms_norm(" in x and "blocks.0" in x]
    call = 'rms_norm_default = torch.ops.tilegym.rms_norm(l_x_, self["blocks.0.norm.gain"], 1e-06,'
    assert op.strip().startswith(call)
    assert "  # + rms_norm  float32[4, 6, 32]" in op
    assert "pow_1" not in after


def test_what_is_left_to_inductor_is_marked_as_such() -> None:
    before, after = texts(Model(), x_and_more()[0])
    for text in (before, after):
        (line,) = [line for line in text.splitlines() if "rsqrt = " in line]
        assert "  # = rms_norm" in line


def test_bodies_are_functions_of_their_own(always: None) -> None:
    model = Model(checkpointed=True)
    before, after = texts(model, x_and_more()[0].requires_grad_())
    functions = [n.name for n in ast.parse(before).body if isinstance(n, ast.FunctionDef)]
    assert functions[-1] == "Model"
    assert len(functions) == 3
    assert after.count("torch.ops.tilegym.rms_norm(") == 2
    assert before.count("# - rms_norm") >= 10


def test_explaining_changes_nothing(always: None) -> None:
    """The captured graph is rewritten to be shown; model, seeds and what runs are as before."""
    model = Model()
    twin = copy.deepcopy(model)
    x = x_and_more()[0]
    torch.manual_seed(3)
    state = torch.get_rng_state()
    texts(model, x)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(
        torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True)
    )
    assert torch.equal(model(x), twin(x))


def test_a_rewrite_that_fails_costs_the_texts_only(
    always: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tile_backend.lowering.analysis import Analysis

    def fails(self: Analysis) -> None:
        raise RuntimeError("planted")

    monkeypatch.setattr(Analysis, "apply", fails)
    with pytest.warns(tile_backend.errors.InternalFailure, match="RuntimeError: planted"):
        report = tile_backend.explain(Model(), x_and_more()[0])
    assert report.counts == {"rms_norm": 2}
    assert report.texts == ({},)


def test_without_a_wish_for_a_dump_nothing_is_read(
    graphs_only: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(listing, "rows", lambda *_: pytest.fail("nobody asked"))
    torch.compile(Model(), backend="tilegym")(x_and_more()[0])
    report = tile_backend.last_report()
    assert isinstance(report, Report)
    folder = report.save(tmp_path)
    assert [path.name for path in (folder / "graphs").iterdir()] == ["not_kept.txt"]
    said = (folder / "graphs" / "not_kept.txt").read_text()
    assert "Set tilegym.report_dir (or TILEGYM_REPORT_DIR" in said
    assert "were not kept" in (folder / "index.html").read_text()


def one_of_each() -> fx.Graph:
    """Calls in the ways that Dynamo's graphs have them."""
    graph = fx.Graph()
    x, y = graph.placeholder("x"), graph.placeholder("y")
    import operator

    taken = graph.call_function(operator.getitem, (x, (..., slice(None, 2), None)))
    made = [
        taken,
        graph.call_function(operator.getitem, (x, slice(1, None, 2))),
        graph.call_function(operator.add, (x, y)),
        graph.call_function(operator.pow, (-1, x)),
        graph.call_function(operator.neg, (x,)),
        graph.call_function(operator.iadd, (x, y)),
        graph.call_function(F.silu, (x,)),
        graph.call_function(torch.cat, ([x, y],), {"dim": -1}),
        graph.call_function(torch._C._nn.linear, (x, y)),
        graph.call_function(torch.ops.aten.add.Tensor, (x, y)),
        graph.call_method("to", (x,), {"dtype": torch.float32, "device": torch.device("cpu")}),
        graph.call_method("view", (x, (2, -1))),
        graph.call_method("masked_fill", (x, y, float("-inf"))),
        graph.call_function(torch.zeros, ((3,),)),
    ]
    graph.output(tuple(made))
    return graph


def test_statements_read_like_code() -> None:
    calls = [node for node in one_of_each().nodes if node.op.startswith("call")]
    assert [python_text.expression(node, str) for node in calls] == [
        "x[..., :2, None]",
        "x[1::2]",
        "x + y",
        "(-1) ** x",
        "-x",
        "operator.iadd(x, y)",
        "torch.nn.functional.silu(x)",
        "torch.cat([x, y], dim=-1)",
        "torch.nn.functional.linear(x, y)",
        "torch.ops.aten.add.Tensor(x, y)",
        "x.to(dtype=torch.float32, device=torch.device('cpu'))",
        "x.view((2, -1))",
        "x.masked_fill(y, float('-inf'))",
        "torch.zeros((3,))",
    ]
    assert all(map(python_text.runs, calls))


def test_a_function_without_a_public_name_is_shown_and_not_run() -> None:
    graph = fx.Graph()
    node = graph.call_function(lambda x: x, (graph.placeholder("x"),))
    assert python_text.statement(node, str) == f"{node.name} = _lambda_(x)"
    assert not python_text.runs(node)
