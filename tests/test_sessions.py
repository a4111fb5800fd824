"""The graphs of one compiled callable: which of them the report adds up, and which it replaces."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch._dynamo.backends.distributed import DDPOptimizer

import tile_backend
from tile_backend.inductor import compile_attempt
from tile_backend.lowering.site import Site
from tile_backend.options import Options
from tile_backend.report import GraphFacts
from tile_backend.sessions import Session


def added(*compiled: tuple[object, int] | None) -> tuple[GraphFacts, ...]:
    """What the report of a session has after graphs of 1, 2, 3, ... calls."""
    session = Session("model", Options())
    sites: tuple[Site, ...] = ()
    for number, each in enumerate(compiled, start=1):
        session.add(each, sites, GraphFacts(ops=number), seconds=0.0)
    return session.report.graphs


@pytest.mark.parametrize(
    ("compiled", "calls"),
    (
        ((("a", 0), ("b", 0)), [1, 2]),
        ((("a", 0), ("a", 0), ("b", 0)), [1, 2, 3]),
        ((("a", 0), ("a", 1)), [2]),
        ((("a", 0), ("a", 0), ("a", 1), ("a", 1)), [3, 4]),
        ((None, None), [1, 2]),
    ),
    ids=str,
)
def test_a_new_attempt_replaces_and_graphs_of_one_attempt_add_up(
    compiled: tuple[tuple[object, int] | None, ...], calls: list[int]
) -> None:
    assert [facts.ops for facts in added(*compiled)] == calls


def test_no_compile_is_running_here() -> None:
    assert compile_attempt() is None


@pytest.mark.usefixtures("graphs_only")
def test_the_parts_of_a_cut_graph_are_all_reported() -> None:
    """What DistributedDataParallel's buckets do to a graph, without the processes."""
    width = 600  # a weight of 1.4 MB, over the 1 MiB of the first bucket
    model = nn.Sequential(
        *(nn.Sequential(nn.Linear(width, width), nn.RMSNorm(width)) for _ in "ab")
    )

    def cut(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> object:
        backend = torch._dynamo.lookup_backend("tilegym")
        return DDPOptimizer(2**20, backend).compile_fn(graph, inputs)

    torch.compile(model, backend=cut)(torch.randn(2, width)).sum().backward()
    report = tile_backend.last_report()
    assert report is not None
    assert len(report.graphs) == 2
    assert report.counts == {"rms_norm": 2}


@pytest.mark.usefixtures("graphs_only")
def test_what_is_compiled_after_a_reset_replaces_what_was_thrown_away() -> None:
    """As often as it is reset, and beside another callable that is compiled first then."""

    class Gate(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.silu(x) * x

    torch.compiler.reset()
    gate, norm = (torch.compile(m, backend="tilegym") for m in (Gate(), nn.RMSNorm(8)))
    for _ in range(3):
        norm(torch.randn(2, 8))
        gate(torch.randn(2, 8))
        gate(torch.randn(2, 8, dtype=torch.bfloat16))  # compiled again: one more graph
        report = tile_backend.last_report()
        assert report is not None
        assert (report.counts, len(report.graphs)) == ({"silu_mul": 2}, 2)
        torch.compiler.reset()
        assert tile_backend.last_report() == report, "it stays until there is another"
