"""Tensors outside a body that a rewrite inside needs: further operands of the calls of that body.

Every call of a body has to pass them on, through all graphs in between; where one cannot (the op
is not known, or steps through its operands), `possible` says so before anything is planned.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import torch
from torch import fx

from tile_backend.lowering import higher_order, input_names
from tile_backend.lowering.higher_order import OPERANDS
from tile_backend.lowering.mask.source import Source
from tile_backend.lowering.nesting import Nesting
from tile_backend.lowering.node import value
from tile_backend.lowering.plan import Candidate
from tile_backend.lowering.undo import Journal


def possible(nesting: Nesting, node: fx.Node, graph: fx.Graph) -> bool:
    """Whether a graph can be handed the value of a node; it holds its own."""
    if node.graph is graph:
        return True
    calls, _ = shared(nesting, graph)
    return bool(calls) and all(
        getattr(OPERANDS.get(higher_order.name(call)), "extended", None) is not None
        and possible(nesting, node, call.graph)
        for call in calls
    )


def shared(nesting: Nesting, graph: fx.Graph) -> tuple[list[fx.Node], list[fx.GraphModule]]:
    """The calls that enter a graph, and all bodies that get what these pass on."""
    calls: dict[fx.Node, None] = {}
    bodies: dict[fx.GraphModule, None] = {}
    graphs = [graph]
    for one in graphs:
        for entry in nesting.entries[one]:
            calls[entry.call] = None
            for body in higher_order.bodies_of(entry.call):
                bodies[body] = None
                if body.graph not in graphs:
                    graphs.append(body.graph)
    return list(calls), list(bodies)


Key = tuple[fx.Node, fx.Node | None, fx.Graph]
"""A node, in front of which write its value is meant, and the graph that is to have it."""


class HandsIn:
    """Adds the operands. changed: the graphs that have another call or input now."""

    def __init__(self, nesting: Nesting) -> None:
        self.nesting = nesting
        self.changed: set[fx.Graph] = set()
        self._made: dict[Key, fx.Node] = {}
        self._journal = Journal()

    def inside(self, graph: fx.Graph, candidate: Candidate, journal: Journal) -> Candidate:
        """The candidate of a graph, every source of which lies in that graph.

        journal: takes back what is added for it.
        """
        call = candidate.call
        if call is None or all(s.node.graph is graph for s in call.sources.values()):
            return candidate
        self._journal = journal
        sources = {name: self._source(graph, source) for name, source in call.sources.items()}
        return dataclasses.replace(candidate, call=dataclasses.replace(call, sources=sources))

    def _source(self, graph: fx.Graph, source: Source) -> Source:
        if source.node.graph is graph:
            return source
        node = self.node(source.node, source.before, graph)
        return dataclasses.replace(source, node=node, before=None)

    def node(self, node: fx.Node, before: fx.Node | None, graph: fx.Graph) -> fx.Node:
        """What stands in the graph for the value that the node has in front of `before`."""
        key = (node, before, graph)
        if key not in self._made:
            if node.graph is graph:
                self._remember(key, node if before is None else copied(node, before))
            else:
                self._pass_on(node, before, graph)
        return self._made[key]

    def _pass_on(self, node: fx.Node, before: fx.Node | None, graph: fx.Graph) -> None:
        calls, bodies = shared(self.nesting, graph)
        for call in calls:
            operand = self.node(node, before, call.graph)
            extended = OPERANDS[higher_order.name(call)].extended
            assert extended is not None, "asked for only where it is possible"
            self._journal.add(functools.partial(setattr, call, "args", call.args))
            call.args = extended(call.args, [operand])
            self.changed.add(call.graph)
        for body in bodies:
            self._remember((node, before, body.graph), new_input(body.graph, node))

    def _remember(self, key: Key, made: fx.Node) -> None:
        """made: a new node, or the one of the key itself."""
        graph = key[2]
        self._made[key] = made
        self._journal.add(functools.partial(self._made.pop, key))
        if made is not key[0]:
            self._journal.add(functools.partial(graph.erase_node, made))
        self.changed.add(graph)


def copied(node: fx.Node, before: fx.Node) -> fx.Node:
    """A copy of a tensor that is written to later."""
    known = meta(node, value(node))
    with node.graph.inserting_before(before):
        made = node.graph.call_method("clone", (node,))
    made.meta = known
    return made


def new_input(graph: fx.Graph, like: fx.Node) -> fx.Node:
    """Behind all inputs that there are."""
    known, first = meta(like, value(like)), next(n for n in graph.nodes if n.op != "placeholder")
    with graph.inserting_before(first):
        made = graph.placeholder(like.name)
    taken = {node.target for node in graph.nodes if node.op == "placeholder" and node is not made}
    while made.target in taken:  # the body may have an input of that name: an argument of its code
        made.target = f"{made.target}_outside"
    made.meta = known
    return made


def meta(like: fx.Node, fake: torch.Tensor) -> dict[str, Any]:
    kept = ("stack_trace", "nn_module_stack", input_names.KEY)
    return {"example_value": fake} | {key: like.meta[key] for key in kept if key in like.meta}
