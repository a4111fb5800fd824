"""`out=` is written to, whatever schemas call it: every function of torch that takes one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import fx

from tile_backend.lowering import writes


def outputs_of(name: str) -> set[int]:
    """How many tensors the overloads of an op write to by name only."""
    packet = getattr(torch.ops.aten, name, None)
    if not isinstance(packet, torch._ops.OpOverloadPacket):
        return set()
    found = set()
    for overload in packet.overloads():
        schema = getattr(packet, overload)._schema
        written = (a for a in schema.arguments if a.kwarg_only and a.alias_info is not None)
        found.add(sum(a.alias_info.is_write for a in written))
    return found - {0}


def functions() -> Iterator[tuple[str, Any, int]]:
    """Name, function, and how many results it may be given."""
    for module in (torch, torch.linalg, torch.special, torch.fft, torch._C._nn):
        for name in sorted(dir(module)):
            function = getattr(module, name)
            if not callable(function) or name.startswith("__"):
                continue
            for count in sorted(outputs_of(getattr(function, "__name__", name))):
                yield f"{module.__name__}.{name}", function, count


def node_of(graph: fx.Graph, name: str) -> fx.Node:
    node = graph.placeholder(name)
    node.meta["example_value"] = torch.empty(4, 4)
    return node


@pytest.mark.filterwarnings("ignore")
def test_all_of_out_is_written_to() -> None:
    counts, unseen = [], []
    for name, function, count in functions():
        graph = fx.Graph()
        x, y = (node_of(graph, name) for name in ("x", "y"))
        given = [node_of(graph, f"out_{i}") for i in range(count)]
        out = given[0] if count == 1 else tuple(given)
        node = graph.call_function(function, (x, y), {"out": out})
        if not set(given) <= set(writes.by_call(node)):
            unseen.append(name)
        counts.append(count)
    assert unseen == []
    assert len(counts) >= 300, "nothing is tried"
    assert sum(count > 1 for count in counts) >= 20


@pytest.mark.parametrize("keyword", ("input", "x", "a", "x1"))
def test_the_names_that_python_has_for_what_is_written(keyword: str) -> None:
    graph = fx.Graph()
    x = node_of(graph, "x")
    torch.relu_(**{keyword: torch.empty(4)})  # torch takes it
    node = graph.call_function(torch.relu_, (), {keyword: x})
    assert writes.by_call(node) == [x]
    read = graph.call_function(torch.relu, (), {keyword: x})
    assert writes.by_call(read) == []
