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

from tile_backend.lowering import input_names
from tile_backend.lowering.anchors import anchors
from tile_backend.lowering.canonical import CanonicalGraph
from tile_backend.lowering.fusion import Fusion
from tile_backend.lowering.match import Binding, unify, unify_attributes
from tile_backend.lowering.node import frames
from tile_backend.lowering.reason import Reason, ReasonKind
from tile_backend.lowering.terms import Term, number_of
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
    ) -> list[NearMiss]:
        known: dict[tuple[object, ...], NearMiss | None] = {}
        found = []
        taken: set[fx.Node] = set()
        for anchor, meant in anchors(canonical, fusions).items():
            node = anchor.node
            if node is None or any(n in covered for n in canonical.nodes[anchor]):
                continue
            line = (anchor.op, *frames(node)[-1:])
            roots = reachable(anchor, canonical)
            if (line in known and known[line] is None) or any(r.node in covered for r in roots[:3]):
                continue
            if any(root.node in taken for root in roots):  # the region has its remark already
                continue
            best = self.best(roots, meant, canonical)
            known[line] = best
            if best is not None and best.root not in covered:
                found.append(best)
                taken.add(best.root)
        return found

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
    fallback = Reason(
        ReasonKind.SHAPE_UNPROVABLE, "the sizes of its operands do not fit", root.node.name
    )
    return NearMiss(pattern, root.node, matched, reason or fallback, binding)


def score(
    wanted: Term, term: Term, binding: Binding, pattern: Pattern
) -> tuple[int, Reason | None]:
    """How many operations of `wanted` are there in `term`, and the first difference."""
    known = binding.terms.get(wanted)
    if wanted.op in ("hole", "scalar", "number"):
        if known is not None and known is not term:
            return 0, difference(wanted, term, f"{wanted.attrs[0]} stands for two different values")
        accepted = unify(wanted, term, binding, pattern)
        return 0, None if accepted else difference(wanted, term)
    if wanted.op != term.op or len(wanted.args) != len(term.args):
        return 0, difference(wanted, term)
    reason = None
    if not unify_attributes(wanted.attrs, term.attrs, binding):
        reason = constant(wanted, term)
    orders = [term.args]
    if wanted.op in ("add", "mul"):
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


def difference(wanted: Term, term: Term, text: str = "") -> Reason:
    node = term.node.name if term.node is not None else ""
    place = f" ({input_names.name(term.node)})" if term.node is not None else ""
    if text:
        return Reason(ReasonKind.OP_DIFFERS, f"{text}{place}", node)
    if wanted.op == "scalar":
        name = wanted.attrs[0]
        return Reason(
            ReasonKind.SCALAR_IS_TENSOR, f"{name} is not a number but {term.op}{place}", node
        )
    if wanted.op == "number":
        actual = number_of(term)
        seen = term.op if actual is None else f"{actual:g}"
        text = f"expected the number {number_of(wanted):g}, the graph has {seen}{place}"
        return Reason(ReasonKind.CONSTANT_DIFFERS, text, node)
    if wanted.op == "hole" and wanted.dtype != term.dtype:
        text = f"{wanted.attrs[0]} is {term.dtype}{place}, expected {wanted.dtype}"
        return Reason(ReasonKind.DTYPE_LIMIT, text, node)
    if wanted.op == "hole":
        text = f"{wanted.attrs[0]} has {term.rank} dimensions{place}, expected {wanted.rank}"
        return Reason(ReasonKind.OP_DIFFERS, text, node)
    if wanted.op == "cast":
        text = f"a cast to {wanted.attrs[0]} is missing before {term.op}{place}"
        return Reason(ReasonKind.CAST_MISSING, text, node)
    if term.op == "cast":
        text = f"an extra cast to {term.attrs[0]}{place} where {wanted.op} is expected"
        return Reason(ReasonKind.CAST_EXTRA, text, node)
    return Reason(
        ReasonKind.OP_DIFFERS, f"expected {wanted.op}, the graph has {term.op}{place}", node
    )


def constant(wanted: Term, term: Term) -> Reason:
    node = term.node.name if term.node is not None else ""
    text = f"{term.op} ({node}) has {list(term.attrs)}, expected {list(wanted.attrs)}"
    return Reason(ReasonKind.CONSTANT_DIFFERS, text, node)
