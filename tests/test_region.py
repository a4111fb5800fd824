"""A part of a graph, cut out, computes what it computed there."""

from __future__ import annotations

import torch
from torch import fx

from tile_backend.lowering.region import region


def program(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    shifted = x + y
    squared = shifted * shifted
    total = squared.sum(-1, keepdim=True) - y
    return total.relu()


def test_a_region_computes_what_the_graph_does() -> None:
    graph = fx.symbolic_trace(program).graph
    nodes = {node.name: node for node in graph.nodes}
    nodes["add"].meta["stack_trace"] = "kept"
    found = region([nodes["mul"], nodes["sum_1"], nodes["sub"]], [nodes["sub"], nodes["mul"]])
    assert found.inputs == (nodes["add"], nodes["y"])
    assert next(iter(found.module.graph.nodes)).meta == {"stack_trace": "kept"} | nodes["add"].meta
    x, y = torch.randn(2, 3), torch.randn(2, 1)
    difference, squared = found.module(x + y, y)
    assert torch.equal(difference.relu(), program(x, y))
    assert torch.equal(squared, (x + y) * (x + y))
