"""Slices: the sites of a graph with what Inductor would fuse with them, the unit of all evidence.

An op of ours is opaque to Inductor: what stood beside the original operations is then a loop of its
own. So what a site costs or saves shows only together with its neighbours: the nodes reached from
it over fusible nodes that have as many kernels before them. (With another number there is a kernel
in between, and no loop can hold both.) Sites whose neighbourhoods touch share a slice.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

import torch
from torch import fx

from tile_backend.lowering import failure
from tile_backend.lowering.alone import kind
from tile_backend.lowering.effects import Effects
from tile_backend.lowering.fusible import kind_of
from tile_backend.lowering.node import called_name, target_key, value
from tile_backend.lowering.plan import Candidate
from tile_backend.lowering.uses import Uses, holds_tensors, values_read

MOST_NEIGHBOURS = 40
"""Of one site."""
MOST_SITES = 6
"""Of one slice; where more touch, each is a slice of its own."""


@dataclasses.dataclass(frozen=True)
class Slice:
    """candidates, neighbours: in the order of the program. uses: of the values of the graph."""

    candidates: tuple[Candidate, ...]
    neighbours: tuple[fx.Node, ...]
    uses: Uses = dataclasses.field(repr=False)

    @property
    def nodes(self) -> set[fx.Node]:
        """All of it."""
        return {*self.neighbours, *(n for c in self.candidates for n in c.extent.elided)}

    @property
    def roots(self) -> tuple[fx.Node, ...]:
        """What of it the rest of the graph reads."""
        nodes = self.nodes
        gone = {n for c in self.candidates for n in c.extent.elided if n not in c.extent.roots}
        return tuple(
            node
            for node in sorted(nodes - gone, key=order_in(self.candidates[0].root.graph))
            if isinstance(value(node), torch.Tensor)
            and any(user not in nodes for user in self.uses.of(node))
        )

    @property
    def words(self) -> tuple[str, ...]:
        """What the neighbours compute, in the order of the program; views compute nothing."""
        return tuple(called_name(node) for node in self.neighbours if kind_of(node) == "loop")

    @property
    def key(self) -> Hashable:
        """Equal for slices of identical layers."""
        nodes = sorted(self.nodes, key=order_in(self.candidates[0].root.graph))
        number = {node: i for i, node in enumerate(nodes)}

        def named(node: fx.Node) -> Any:
            return f"#{number[node]}" if node in number else kind(node)

        calls = tuple(
            (n.op, target_key(n), str(fx.node.map_arg((n.args, n.kwargs), named)), kind(n))
            for n in nodes
        )
        sites = tuple(
            (c.fusion, call.mask, call.drops, number[c.root], *(s.op.name for s in call.launched))
            for c in self.candidates
            if (call := c.call) is not None
        )
        return calls, sites


def order_in(graph: fx.Graph) -> Callable[[fx.Node], int]:
    positions = {node: i for i, node in enumerate(graph.nodes)}
    return positions.__getitem__


def slices(candidates: Sequence[Candidate], effects: Effects) -> list[Slice]:
    """Every candidate is in one of them. The candidates are of one graph."""
    if not candidates:
        return []
    graph = candidates[0].root.graph
    uses = Uses(effects)
    walk = Walk(graph, effects, uses)
    reached = [
        failure.instead(set[fx.Node](), "finding its neighbours", one.root, walk.around, one)
        for one in candidates
    ]
    groups = touching(reached)
    found = []
    for group in groups:
        parts = [group] if len(group) <= MOST_SITES else [[index] for index in group]
        for part in parts:
            sites = tuple(candidates[index] for index in part)
            own = {node for site in sites for node in site.extent.elided}
            near = {node for index in part for node in reached[index]} - own
            near_by = tuple(sorted(near, key=effects.position.__getitem__))
            found.append(Slice(sites, near_by, uses))
    return found


class Walk:
    """From sites to their neighbours."""

    def __init__(self, graph: fx.Graph, effects: Effects, uses: Uses) -> None:
        self.effects = effects
        self.uses = uses
        self.fusible = {node for node in graph.nodes if is_fusible(node)}
        self.depth: dict[fx.Node, int] = {}
        for node in graph.nodes:
            before = max((self.depth[source] for source in values_read(node)), default=0)
            own = node.op.startswith("call") and holds_tensors(node) and node not in self.fusible
            self.depth[node] = before + own

    def around(self, candidate: Candidate) -> set[fx.Node]:
        """The site's own nodes from which a loop can reach out, and what it reaches."""
        extent = candidate.extent
        inputs = [self.depth[node] for node in extent.operands]
        depths = {max(inputs, default=0), *(self.depth[root] for root in extent.roots)}
        region = self.effects.region[candidate.root]
        seeds = [n for n in extent.elided if n in self.fusible and self.depth[n] in depths]
        found, own = set(seeds), set(extent.elided)
        todo, room = list(seeds), MOST_NEIGHBOURS
        while todo and room:
            node = todo.pop(0)
            for near in (*self.uses.of(node), *values_read(node)):
                if near in found or near not in self.fusible or not holds_tensors(near):
                    continue
                if self.depth[near] != self.depth[node] or near in self.effects.volatile:
                    continue
                if self.effects.region[near] != region or (near in own and near not in seeds):
                    continue
                found.add(near)
                todo.append(near)
                room -= 1
                if not room:
                    break
        return found


def is_fusible(node: fx.Node) -> bool:
    """Whether Inductor may compute it in a loop with others."""
    return failure.instead("opaque", "telling its kind", node, kind_of, node) != "opaque"


def touching(sets: Sequence[Iterable[fx.Node]]) -> list[list[int]]:
    """The numbers of the sets, those together that have a node in common, directly or not."""
    groups: list[tuple[set[fx.Node], list[int]]] = []
    for index, nodes in enumerate(sets):
        merged, numbers = set(nodes), [index]
        for group in [g for g in groups if g[0] & merged]:
            groups.remove(group)
            merged |= group[0]
            numbers += group[1]
        groups.append((merged, sorted(numbers)))
    return sorted((numbers for _, numbers in groups), key=lambda numbers: numbers[0])
