"""The bench of load, with few items and no generated code: what a compile leaves behind."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import pytest
import torch
from torch._dynamo import config

from bench import load

FEW = 4
LEFT = 200
"""Objects that a compile of ours may leave beside Inductor's: the report's record of the graph and
of its two sites. A graph of torch.fx that is kept has more than a thousand."""
pytestmark = pytest.mark.usefixtures("graphs_only", "unlimited")


@pytest.fixture
def unlimited() -> Iterator[None]:
    """Dynamo compiles as often as it is asked to."""
    with config.patch(recompile_limit=FEW + 1, accumulated_recompile_limit=10 * FEW):
        yield


def found(name: str, count: int) -> tuple[dict[str, float], list[tuple[float, int]]]:
    """What the load measures, and seconds and sites of each graph."""
    torch.compiler.reset()
    compiles = functools.partial(torch.compile, backend="tilegym", options=load.ALWAYS)
    with load.reported() as rows:
        return load.LOADS[name](compiles, count), rows


@pytest.mark.parametrize("name", ("recompiles", "callables"))
def test_a_compile_leaves_its_report_and_nothing_else(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, rows = found(name, FEW)
    assert [sites for _, sites in rows] == [2] * FEW
    assert all(seconds > 0 for seconds, _ in rows)
    monkeypatch.setenv("TILEGYM_DISABLE", "1")
    theirs, rows = found(name, FEW)
    assert not rows
    assert ours["objects"] <= theirs["objects"] + LEFT


def test_a_run_leaves_nothing() -> None:
    measured, rows = found("steps", FEW)
    assert sum(sites for _, sites in rows) > 0
    assert measured["objects"] <= 1
    assert measured["step_ms"] > 0


def test_a_graph_of_many_nodes_has_as_many_sites() -> None:
    _, rows = found("nodes", 4 * load.BLOCK)
    assert [sites for _, sites in rows] == [2 * 4]


def test_the_table_has_what_was_measured() -> None:
    row = {"load": "steps", "count": 9, "backend": "inductor", "inductor_s": 1.5, "kib": 0.25}
    assert load.report([row]).splitlines()[1].split() == ["9", "steps", "inductor", "1.5", "0.25"]
