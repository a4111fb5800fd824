"""What AOTAutograd makes of our ops still says which module, line and node each came from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from functorch.compile import make_boxed_func
from torch import fx, nn

from tile_backend import inductor
from tile_backend.lowering import provenance


class Gate(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(64)
        self.up = nn.Linear(64, 128)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate, up = self.up(self.norm(x)).chunk(2, -1)
        return F.silu(gate) * up


def ancestors(sources: list[Any]) -> Iterator[tuple[str, str]]:
    """(node, pass) of everything that a node was made from."""
    for source in sources:
        yield getattr(source.node_info, "name", ""), source.pass_name
        yield from ancestors(source.from_node)


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> dict[bool, list[fx.Node]]:
    """Our ops in the forward (False) and the backward (True) that Inductor gets."""
    found: dict[bool, list[fx.Node]] = {}

    def read(graph: fx.GraphModule, _inputs: object, **settings: object) -> object:
        ours = [n for n in graph.graph.nodes if str(n.target).startswith("tilegym.")]
        found[bool(settings.get("is_backward"))] = ours
        return make_boxed_func(graph.forward)

    monkeypatch.setattr(inductor, "_inner_compile", [read])
    torch._dynamo.reset()
    options = {"tilegym.kernels": "always"}
    compiled = torch.compile(Gate(), backend="tilegym", options=options)
    compiled(torch.randn(8, 64)).sum().backward()
    return found


def test_the_ops_of_the_forward_know_where_they_come_from(
    graphs: dict[bool, list[fx.Node]],
) -> None:
    norm, gate = graphs[False]
    assert [provenance.module_path(n.meta) for n in (norm, gate)] == ["norm", ""]
    for node, root in ((norm, "rms_norm"), (gate, "mul")):
        assert provenance.source_line(node.meta).startswith("test_provenance.py:")
        assert (root, "tilegym") in ancestors(node.meta["from_node"])


def test_so_do_those_of_the_backward(graphs: dict[bool, list[fx.Node]]) -> None:
    ours = graphs[True]
    assert ours
    for node in ours:
        assert provenance.source_line(node.meta).startswith("test_provenance.py:")
