"""Almost a fusion: which spelling came closest, and the first operation that differs.

Looked for only where an anchor of a fusion is present and no site covers it, so a graph in which
everything fuses pays nothing. Anchors on one source line are looked at once. A fusion's declared
near misses are tried first: they have words of their own.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence

from torch import fx

from tile_backend.lowering import failure
from tile_backend.lowering.anchors import anchors, unread
from tile_backend.lowering.canonical import CanonicalGraph
from tile_backend.lowering.canonical_ops import OPERATIONS
from tile_backend.lowering.difference import constant, described, difference
from tile_backend.lowering.effects import Effects
from tile_backend.lowering.fusion import Fusion
from tile_backend.lowering.match import Binding, operands_of, unify, unify_attributes
from tile_backend.lowering.match_sizes import disagreement
from tile_backend.lowering.node import frames, target_name
from tile_backend.lowering.reason import Reason, ReasonKind
from tile_backend.lowering.terms import Term
from tile_backend.lowering.trace import Pattern

THRESHOLD = 0.7
REACH = 6
"""How many operations the root of a spelling may lie above its anchor."""


@dataclasses.dataclass(frozen=True)
class NearMiss:
    """matched of pattern.size operations unified at `root`; `reason` is the first difference.

    binding: what they were unified with.
    """

    pattern: Pattern
    root: fx.Node
    matched: int
    reason: Reason
    binding: Binding

    @property
    def progress(self) -> str:
        """How much of the spelling is there; "" for a form that the fusion names as another."""
        whole = self.matched == self.pattern.size
        return "" if whole else f"{self.matched}/{self.pattern.size} ops"


@dataclasses.dataclass(frozen=True)
class Searched:
    """misses: in the order of their anchors. anchored: fusions of which an anchor occurs.

    unclaimed: those of which one is part of no site, not even of a near miss.
    """

    misses: tuple[NearMiss, ...]
    anchored: frozenset[str]
    unclaimed: frozenset[str]


@dataclasses.dataclass
class Searching:
    """One search so far. covered: see `NearMisses.search`. taken: the roots of what was found.

    known: by operation and source line. alone: anchors that nothing comes close to, as the names of
    their fusions and the terms that were looked at.
    """

    canonical: CanonicalGraph
    covered: set[fx.Node]
    known: dict[tuple[object, ...], NearMiss | None] = dataclasses.field(default_factory=dict)
    found: list[NearMiss] = dataclasses.field(default_factory=list)
    taken: set[fx.Node] = dataclasses.field(default_factory=set)
    alone: list[tuple[set[str], list[Term]]] = dataclasses.field(default_factory=list)


class NearMisses:
    """Searches one graph.

    spellings: the patterns that can fire.  declare: makes those of the fusions' near misses, which
    are asked for at the first anchor that no site covers.
    """

    def __init__(
        self, spellings: Iterable[Pattern], declare: Callable[[], Iterable[Pattern]]
    ) -> None:
        self.spellings = by_fusion(spellings)
        self._declare = declare

    @functools.cached_property
    def declared(self) -> Mapping[str, list[Pattern]]:
        """By fusion."""
        return by_fusion(self._declare())

    def search(
        self, canonical: CanonicalGraph, fusions: Sequence[Fusion], covered: set[fx.Node]
    ) -> Searched:
        """covered: the nodes of the sites that are found already."""
        met = failure.instead({}, "looking for anchors", None, anchors, canonical, fusions)
        searching = Searching(canonical, covered)
        for anchor, meant in met.items():
            what = "looking for a near miss"
            failure.instead(None, what, anchor.node, self.look, anchor, meant, searching)
        taken, alone = searching.taken, searching.alone
        left = (names for names, roots in alone if not taken.intersection(r.node for r in roots))
        unclaimed = {name for names in left for name in names}
        anchored = frozenset(fusion.name for meant in met.values() for fusion in meant)
        return Searched(tuple(searching.found), anchored, frozenset(unclaimed))

    def look(self, anchor: Term, meant: list[Fusion], searching: Searching) -> None:
        """At one anchor, of these fusions."""
        canonical, covered, taken = searching.canonical, searching.covered, searching.taken
        node = anchor.node
        if node is None or any(n in covered for n in canonical.nodes[anchor]):
            return
        roots = reachable(anchor, canonical)
        if any(r.node in covered for r in roots[:3]) or any(r.node in taken for r in roots):
            return  # the region has its remark already
        line = (anchor.op, *frames(node)[-1:])
        known = searching.known
        if line not in known or known[line] is not None:
            known[line] = self.best(roots, meant, canonical)
        best = known[line]
        if best is None:
            searching.alone.append(({fusion.name for fusion in meant}, roots))
        elif best.root not in covered:
            searching.found.append(best)
            taken.add(best.root)

    def best(
        self, roots: list[Term], fusions: list[Fusion], canonical: CanonicalGraph
    ) -> NearMiss | None:
        for fusion in fusions:
            for pattern in self.declared.get(fusion.name, ()):
                for root in roots:
                    binding = Binding(table=canonical.table)
                    if root.node is not None and unify(pattern.roots[0], root, binding, pattern):
                        return declared_miss(pattern, root.node, binding)
        candidates = [
            partial(pattern, root, canonical)
            for fusion in fusions
            for pattern in self.spellings.get(fusion.name, ())
            for root in roots
            if root.op == pattern.roots[0].op and root.node is not None
        ]
        close = [c for c in candidates if c.matched >= THRESHOLD * c.pattern.size]
        if not close and unread(roots[0]):
            meant = min(fusions, key=lambda fusion: fusion.name != unread(roots[0]))
            return not_read(self.spellings[meant.name][0], roots[0], canonical.effects)
        return max(close, key=lambda c: (c.matched / c.pattern.size, c.matched), default=None)


def by_fusion(patterns: Iterable[Pattern]) -> dict[str, list[Pattern]]:
    found: dict[str, list[Pattern]] = {}
    for pattern in patterns:
        found.setdefault(pattern.fusion.name, []).append(pattern)
    return found


def reachable(anchor: Term, canonical: CanonicalGraph) -> list[Term]:
    """The anchor and the terms computed from it within REACH operations, nearest first."""
    found = {anchor: None}
    level = list(canonical.nodes[anchor])
    for _ in range(REACH):
        level = [user for node in level for user in node.users]
        for node in level:
            if node in canonical.term:
                found.setdefault(canonical.term[node])
    return list(found)


def declared_miss(pattern: Pattern, root: fx.Node, binding: Binding) -> NearMiss:
    words = inspect.getdoc(pattern.spelling.function) or pattern.spelling.title.replace("_", " ")
    sentence, _, fix = words.split("\n\n")[0].replace("\n", " ").rstrip(".").partition(" Fix: ")
    reason = Reason(ReasonKind.OP_DIFFERS, sentence.rstrip("."), root.name, fix)
    return NearMiss(pattern, root, pattern.size, reason, binding)


def partial(pattern: Pattern, root: Term, canonical: CanonicalGraph) -> NearMiss:
    binding = Binding(table=canonical.table)
    matched, reason = score(pattern.roots[0], root, binding, pattern)
    assert root.node is not None
    reason = reason or unfitting(pattern, root.node, binding)
    return NearMiss(pattern, root.node, matched, reason, binding)


def not_read(pattern: Pattern, anchor: Term, effects: Effects) -> NearMiss:
    """A call of the right name that is written to, or with arguments that no spelling has."""
    node = anchor.node
    assert node is not None
    if node in effects.unsettled:
        reason = Reason(ReasonKind.MUTATION_BARRIER, effects.overwritten(node), node.name)
        return NearMiss(pattern, node, pattern.size, reason, Binding())
    words = [described(a) for a in node.args]
    words += [f"{name}={described(a)}" for name, a in node.kwargs.items()]
    text = f"no spelling has such a call: {target_name(node)}({', '.join(words)})"
    reason = Reason(ReasonKind.OP_DIFFERS, text, node.name)
    return NearMiss(pattern, node, pattern.size, reason, Binding())


def unfitting(pattern: Pattern, root: fx.Node, binding: Binding) -> Reason:
    """Why a spelling of which every operation is there is none."""
    found = disagreement(pattern, operands_of(pattern, binding), binding.sizes)
    if found is None:
        text = "its operations are there, but no one choice of operands makes them this fusion"
        return Reason(ReasonKind.OP_DIFFERS, text, root.name)
    if isinstance(found.one, int) and isinstance(found.other, int):
        text = f"{found.words} would have to be {found.one} and {found.other}"
        return Reason(ReasonKind.SHAPE_LIMIT, text, root.name)
    text = f"nothing says that {found.words} is {found.other}: it is {found.one}"
    return Reason(ReasonKind.SHAPE_UNPROVABLE, text, root.name)


def score(
    wanted: Term, term: Term, binding: Binding, pattern: Pattern
) -> tuple[int, Reason | None]:
    """How many operations of `wanted` are there in `term`, and the first difference."""
    known = binding.terms.get(wanted)
    if OPERATIONS[wanted.op].free:
        if known is not None and known is not term:
            same = known.op == term.op == "leaf" and known.node is term.node
            words = "is written to in between" if same else "stands for two different values"
            return 0, difference(wanted, term, f"{wanted.attrs[0]} {words}")
        accepted = unify(wanted, term, binding, pattern)
        return 0, None if accepted else difference(wanted, term)
    if wanted.op == "cast" != term.op and term.cast_of is not None:  # see match.moved_cast
        matched, reason = score(wanted.args[0], term.cast_of, binding, pattern)
        binding.terms[wanted] = term
        return matched + 1, reason
    if wanted.op != term.op or len(wanted.args) != len(term.args):
        return 0, difference(wanted, term)
    reason = None
    if not unify_attributes(wanted.attrs, term.attrs, binding):
        reason = constant(wanted, term)
    orders = [term.args]
    if OPERATIONS[wanted.op].commutes:
        orders.append(term.args[::-1])
    best: tuple[int, Reason | None, Binding] | None = None
    for order in orders:
        trial, matched, why = binding.copy(), 1 if reason is None else 0, reason
        for p, t in zip(wanted.args, order, strict=True):
            count, inner = score(p, t, trial, pattern)
            matched += count
            why = why or inner
        if best is None or (why is None, matched) > (best[1] is None, best[0]):
            best = matched, why, trial
    assert best is not None
    binding.__dict__.update(best[2].__dict__)
    binding.terms[wanted] = term
    return best[0], best[1]
