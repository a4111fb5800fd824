"""Nodes of a graph as a module of their own, which runs without the rest of the graph.

What the nodes read from outside becomes its inputs, parameters included, in the order of first use.
Metadata is kept. The graph itself is not touched.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import torch
from torch import fx


@dataclasses.dataclass(frozen=True)
class Region:
    """module: takes a value for each of `inputs`, returns one for each result, as a tuple.

    inputs: the nodes of the whole graph that the module's placeholders stand for, in order.
    """

    module: fx.GraphModule
    inputs: tuple[fx.Node, ...]


def region(nodes: Iterable[fx.Node], results: Sequence[fx.Node]) -> Region:
    """nodes: of one graph, in program order. results: some of them."""
    inside = dict.fromkeys(nodes)
    read = (source for node in inside for source in node.all_input_nodes)
    inputs = dict.fromkeys(source for source in read if source not in inside)
    graph, taken = fx.Graph(), dict[fx.Node, fx.Node]()
    for node in inputs:
        taken[node] = graph.placeholder(node.name)
        taken[node].meta = dict(node.meta)
    for node in inside:
        taken[node] = graph.node_copy(node, taken.__getitem__)
    graph.output(tuple(taken[node] for node in results))
    graph.lint()
    return Region(fx.GraphModule(torch.nn.Module(), graph), tuple(inputs))
