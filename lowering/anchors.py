"""Anchors: the operations whose presence says that somebody meant a fusion.

An anchor is a path of canonical operations, "rsqrt/add/mean": an rsqrt one of whose operands is an
add one of whose operands is a mean.
"""

from __future__ import annotations

from collections.abc import Iterable

from tile_backend.lowering.canonical import CanonicalGraph
from tile_backend.lowering.fusion import Fusion
from tile_backend.lowering.terms import Term


def follows(term: Term, path: tuple[str, ...]) -> bool:
    if term.op != path[0]:
        return False
    return len(path) == 1 or any(follows(argument, path[1:]) for argument in term.args)


def anchors(canonical: CanonicalGraph, fusions: Iterable[Fusion]) -> dict[Term, list[Fusion]]:
    """Every term at the top of an anchor of some fusion, with those fusions."""
    by_op: dict[str, list[tuple[tuple[str, ...], Fusion]]] = {}
    for fusion in fusions:
        for anchor in fusion.anchors:
            path = tuple(anchor.split("/"))
            by_op.setdefault(path[0], []).append((path, fusion))
    found: dict[Term, list[Fusion]] = {}
    for term in canonical.nodes:
        for path, fusion in by_op.get(term.op, ()):
            if follows(term, path) and fusion not in found.get(term, ()):
                found.setdefault(term, []).append(fusion)
    return found
