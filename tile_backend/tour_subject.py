"""What a walk-through is about: one site of a captured graph, with all that is known of it.

A Subject lives as long as the graph does, inside the capture; stages are made of it there.
"""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import fx

from tile_backend import globs
from tile_backend.errors import NoSuchSite
from tile_backend.lowering import identities
from tile_backend.lowering.analysis import Analysis, Origin, bodies
from tile_backend.lowering.canonical import CanonicalGraph
from tile_backend.lowering.near_miss import NearMiss
from tile_backend.lowering.plan import Candidate
from tile_backend.lowering.site import Site

ORDER = ("fused", "declined", "near-miss")


class ObservedGraph(CanonicalGraph):
    """rules: the identities that were used for the term of each node."""

    def __init__(self, graph: fx.Graph) -> None:
        self.rules: dict[fx.Node, tuple[Callable[..., Any], ...]] = {}
        super().__init__(graph)

    def _add(self, node: fx.Node) -> None:
        with identities.noted() as rules:
            super()._add(node)
        self.rules[node] = tuple(dict.fromkeys(rules))


@dataclasses.dataclass(frozen=True)
class Subject:
    """site, origin: None where there is nothing to show.

    graph: the one that holds the site, as terms. nodes: those of the site, in program order.
    sites: all of the whole graph. anchored: the fusions whose anchors occur.
    """

    title: str
    whole: fx.GraphModule
    graph: ObservedGraph
    nodes: tuple[fx.Node, ...]
    sites: tuple[Site, ...]
    anchored: tuple[str, ...]
    at: int | None = None
    origin: Origin = None

    @property
    def site(self) -> Site | None:
        return None if self.at is None else self.sites[self.at]

    @property
    def candidate(self) -> Candidate | None:
        return self.origin if isinstance(self.origin, Candidate) else None

    @property
    def miss(self) -> NearMiss | None:
        return self.origin if isinstance(self.origin, NearMiss) else None

    @property
    def others(self) -> tuple[Site, ...]:
        """The sites that the tour only names."""
        return tuple(site for at, site in enumerate(self.sites) if at != self.at)


def subject(whole: fx.GraphModule, found: Analysis, title: str, wanted: str) -> Subject:
    """The site that `wanted` names ("": the one with most to show). Raises NoSuchSite."""
    at = chosen(found.sites, title, wanted)
    origin = None if at is None else found.origins[at]
    root = root_of(found, at)
    graph = whole.graph if root is None else root.graph
    observed = ObservedGraph(graph)
    nodes = nodes_of(origin, root, observed)
    return Subject(title, whole, observed, nodes, found.sites, found.anchored, at, origin)


def chosen(sites: Sequence[Site], title: str, wanted: str) -> int | None:
    """Fused before declined before almost; then the one with the most operations."""
    fitting = [at for at, site in enumerate(sites) if named(site, wanted)]
    if wanted and not fitting:
        known = ", ".join(f"{s.fusion}@{s.module}" if s.module else s.fusion for s in sites)
        raise NoSuchSite(title=title, wanted=wanted, sites=known or "none")
    return min(
        fitting,
        key=lambda at: (ORDER.index(sites[at].status), -len(sites[at].ops), at),
        default=None,
    )


def named(site: Site, wanted: str) -> bool:
    """`attention`, `model.layers.0.*` or `attention@model.layers.0.*`."""
    if not wanted:
        return True
    fusion, at, module = wanted.partition("@")
    if at:
        return fnmatch.fnmatchcase(site.fusion, fusion) and globs.covers(module, site.module)
    return fnmatch.fnmatchcase(site.fusion, wanted) or globs.covers(wanted, site.module)


def root_of(found: Analysis, at: int | None) -> fx.Node | None:
    """The node that the site is named after; of an op that is left alone it is not known."""
    origin = None if at is None else found.origins[at]
    return None if origin is None else origin.root


def nodes_of(origin: Origin, root: fx.Node | None, graph: ObservedGraph) -> tuple[fx.Node, ...]:
    """What a match covers; for a near miss, what is computed on the way to its root."""
    if isinstance(origin, Candidate):
        nodes = set(origin.extent.elided)
    elif root is None:
        return ()
    else:
        nodes = above(root, len(root.graph.nodes))
    order = graph.effects.position
    return tuple(sorted(nodes, key=order.__getitem__))


def above(root: fx.Node, limit: int, depth: int = 6) -> set[fx.Node]:
    """The node and the calls that it was computed from, a few operations up."""
    found, level = {root}, [root]
    for _ in range(min(depth, limit)):
        level = [n for node in level for n in node.all_input_nodes if n.op.startswith("call")]
        found.update(level)
    return found


def graphs(whole: fx.GraphModule) -> Mapping[fx.Graph, fx.GraphModule]:
    """The graph and the bodies inside it."""
    return {part.graph: part for part in bodies(whole)}
