"""From all matches of a graph to the rewrites that will be made, and the reasons for the rest.

Where matches overlap, the fusion of higher priority wins, then the larger match, then the later one
in the program. A candidate that is not legal leaves its region to the next best.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from torch import fx

from tile_backend.lowering import failure, kept_copies, legality, read_place
from tile_backend.lowering.canonical import CanonicalGraph
from tile_backend.lowering.extent import Extent, extent, meeting_operands, shareable
from tile_backend.lowering.identities_layout import full_permutation
from tile_backend.lowering.legality import Call
from tile_backend.lowering.mask import proof
from tile_backend.lowering.match import Match, Matcher
from tile_backend.lowering.node import module_path, value
from tile_backend.lowering.realise import Unrealisable, operands
from tile_backend.lowering.reason import Reason, ReasonKind
from tile_backend.lowering.terms import Term, TermTable

Allows = Callable[[str, str], bool]
"""(fusion, module path) -> may it fire there (the user's include, exclude and fusions)."""


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A match, where it lies, and either the op call it stands for or the reason why not.

    merged: further matches that the same call serves (k of a rotary embedding of q and k).
    dropped: nodes that the graph returns, and that go with the original ops (Fusion.drops).
    dropped_at: their places among what it returns.
    plain:  what goes into the graph is plain PyTorch (fusion.MaskRule), not the op.
    copied: the nodes of which the op gets a copy, see kept_copies.
    """

    match: Match
    extent: Extent
    place: fx.Node
    call: Call | None = None
    reason: Reason | None = None
    merged: tuple[Match, ...] = ()
    plain: bool = False
    dropped: tuple[fx.Node, ...] = ()
    dropped_at: tuple[int, ...] = ()
    copied: frozenset[fx.Node] = frozenset()

    @property
    def fusion(self) -> str:
        return self.match.fusion.name

    @property
    def root(self) -> fx.Node:
        return self.extent.roots[0]

    @property
    def module(self) -> str:
        return module_path(self.root)


@dataclasses.dataclass(frozen=True)
class Plan:
    """chosen: legal and without overlaps. declined: the best that failed elsewhere.

    Both in program order.
    """

    chosen: tuple[Candidate, ...]
    declined: tuple[Candidate, ...]

    @property
    def covered(self) -> set[fx.Node]:
        return {n for c in (*self.chosen, *self.declined) for n in c.extent.elided}


def plan(
    canonical: CanonicalGraph,
    matcher: Matcher,
    allows: Allows,
    drops: frozenset[str] = frozenset(),
) -> Plan:
    """drops: the fusions that may drop what the graph returns (Fusion.drops)."""
    candidates = sorted(found(canonical, matcher), key=rank(canonical))
    claimed: dict[fx.Node, Candidate] = {}
    chosen: list[Candidate] = []
    declined: list[Candidate] = []
    for candidate in candidates:
        if any(node in claimed for node in weighty(candidate.extent, canonical)):
            continue
        if candidate.reason is None:
            candidate = judge(candidate, canonical, allows, drops)
        if candidate.reason is None:
            chosen.append(candidate)
        else:
            declined.append(candidate)
        if candidate.reason is None or candidate.match.pattern.spelling.declined is not None:
            for node in weighty(candidate.extent, canonical):
                claimed[node] = candidate
    order = canonical.effects.position
    taken = {node for c in chosen for node in weighty(c.extent, canonical)}
    return Plan(
        tuple(sorted(chosen, key=lambda c: order[c.root])),
        tuple(best_of_each_region(declined, taken, canonical)),
    )


def found(canonical: CanonicalGraph, matcher: Matcher) -> Iterable[Candidate]:
    for term, nodes in canonical.nodes.items():
        if nodes[0] is not term.node:
            continue
        seen: set[Any] = set()
        given = term, matcher, canonical
        for match in failure.instead([], "matching", term.node, all_matches, *given):
            key = (match.pattern.spelling.title, match.fusion.name, tuple(match.operands.values()))
            if key not in seen:
                seen.add(key)
                yield from lying(match, nodes[0], canonical)


def lying(match: Match, root: fx.Node, canonical: CanonicalGraph) -> Iterator[Candidate]:
    """The match with its nodes, where all its results are nodes."""
    found = failure.tried("finding its nodes", root, placed, match, canonical)
    if isinstance(found, Reason):
        yield Candidate(match, Extent((root,), (), (), (), (True,)), root, reason=found)
    elif found is not None:
        yield found


def placed(match: Match, canonical: CanonicalGraph) -> Candidate | None:
    match = meeting_operands(match, canonical)
    where = extent(match, canonical)
    return None if where is None else Candidate(match, where, where.roots[0])


def all_matches(term: Term, matcher: Matcher, canonical: CanonicalGraph) -> list[Match]:
    return list(matches(term, matcher, canonical.table))


def matches(term: Term, matcher: Matcher, table: TermTable) -> Iterator[Match]:
    """The matches at a term, and those that the graph holds only as this permutation of them."""
    yield from matcher.matches(term, table)
    if term.op == "permute" and term.args[0].node is None:
        view = full_permutation(term.attrs, term.rank)
        for match in matcher.matches(term.args[0], table):
            if len(match.roots) == 1:
                yield dataclasses.replace(match, roots=(term,), view=view)


def rank(canonical: CanonicalGraph) -> Callable[[Candidate], tuple[int, int, int]]:
    order = canonical.effects.position

    def key(candidate: Candidate) -> tuple[int, int, int]:
        size = candidate.match.pattern.size
        return -candidate.match.fusion.priority, -size, -order[candidate.root]

    return key


def weighty(where: Extent, canonical: CanonicalGraph) -> list[fx.Node]:
    """The elided nodes that only one rewrite may have: casts and views can be shared."""
    return [n for n in where.elided if n is where.roots[0] or not shareable(n, canonical)]


def judge(
    candidate: Candidate, canonical: CanonicalGraph, allows: Allows, drops: frozenset[str]
) -> Candidate:
    """The candidate with its op call, or with the reason why it cannot be."""
    found = failure.tried(
        "checking it", candidate.root, judged, candidate, canonical, allows, drops
    )
    return dataclasses.replace(candidate, reason=found) if isinstance(found, Reason) else found


def judged(
    candidate: Candidate, canonical: CanonicalGraph, allows: Allows, drops: frozenset[str]
) -> Candidate:
    if not allows(candidate.fusion, candidate.module):
        text = "the options exclude it here (fusions, include or exclude)"
        return dataclasses.replace(candidate, reason=Reason(ReasonKind.EXCLUDED_BY_USER, text))
    reason = legality.structure(candidate.match, candidate.extent, canonical, drops)
    if reason is not None:
        return dataclasses.replace(candidate, reason=reason)
    try:
        made = fake_call(candidate.match)
    except Unrealisable as error:
        made = Reason(ReasonKind.SHAPE_UNPROVABLE, f"an operand cannot be written down: {error}")
    if isinstance(made, Reason):
        return dataclasses.replace(candidate, reason=made)
    reason = legality.same_results(made, candidate.extent)
    if reason is not None:
        return dataclasses.replace(candidate, reason=reason)
    where = read_place.place(candidate.extent, canonical)
    given = made, candidate.match, canonical
    call = failure.instead(made, "reading its mask", candidate.root, proof.applied, *given)
    dropped: tuple[fx.Node, ...] = ()
    if candidate.match.fusion.drops:
        dropped = legality.kept_alive(candidate.extent, canonical)
    places = returned_at(canonical.graph, dropped)
    call = dataclasses.replace(call, read=candidate.extent.read, drops=bool(dropped))
    taken = [source.node for source in call.sources.values()]
    copied = kept_copies.needed(candidate.match.fusion, candidate.extent, taken, canonical)
    return dataclasses.replace(
        candidate,
        call=call,
        place=where,
        dropped=dropped,
        dropped_at=places,
        copied=copied,
    )


def returned_at(graph: fx.Graph, nodes: tuple[fx.Node, ...]) -> tuple[int, ...]:
    """The places of these nodes among what the graph returns."""
    if not nodes:
        return ()
    returned: tuple[object, ...] = tuple(graph.output_node().args[0])  # type: ignore[arg-type]
    return tuple(place for place, node in enumerate(returned) if node in nodes)


def fake_call(match: Match) -> Call | Reason:
    with legality.fake_mode_of([value(match.roots[0].node)]):
        bound: Mapping[str, Any] = operands(match, value)
    return legality.call(match, bound)


def best_of_each_region(
    declined: list[Candidate], taken: set[fx.Node], canonical: CanonicalGraph
) -> Iterable[Candidate]:
    """Failures that no better failure touches, in program order.

    Where chosen rewrites took half of it and more, the failure is of no interest; a smaller part
    (the softmax of an attention) leaves most of it unsaid. One that the user can lift
    (Fusion.drops) is kept in any case, and so is a failure of ours.
    """
    told = set[fx.Node]()
    kept = []
    for candidate in declined:  # best first
        nodes = weighty(candidate.extent, canonical)
        reason = candidate.reason
        liftable = bool(reason and reason.fix and candidate.match.fusion.drops)
        ours = bool(reason and reason.kind is ReasonKind.INTERNAL_FAILURE)
        replaced = sum(node in taken for node in nodes)
        if not told.intersection(nodes) and (liftable or ours or 2 * replaced < len(nodes)):
            kept.append(candidate)
            told.update(nodes)
    return sorted(kept, key=lambda c: canonical.effects.position[c.root])
