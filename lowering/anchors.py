"""Anchors: the operations whose presence says that somebody meant a fusion.

An anchor is a path of canonical operations, "rsqrt/add/mean": an rsqrt one of whose operands is an
add one of whose operands is a mean. A call of which nothing was understood is an anchor as well, if
its name is one: a layer_norm over two dimensions.
"""

from __future__ import annotations

from collections.abc import Iterable

from tile_backend.lowering import vocabulary
from tile_backend.lowering.canonical import CanonicalGraph
from tile_backend.lowering.fusion import Fusion
from tile_backend.lowering.terms import Term


def follows(term: Term, path: tuple[str, ...]) -> bool:
    if term.op != path[0]:
        return False
    return len(path) == 1 or any(follows(argument, path[1:]) for argument in term.args)


def unread(term: Term) -> str:
    """The name of a call that was not understood, as anchors have it; else ""."""
    node = term.node
    if term.op != "leaf" or node is None or node.op not in ("call_function", "call_method"):
        return ""
    return vocabulary.name_of(node.target)


def anchors(canonical: CanonicalGraph, fusions: Iterable[Fusion]) -> dict[Term, list[Fusion]]:
    """Every term at the top of an anchor of some fusion, with those fusions."""
    by_op: dict[str, list[tuple[tuple[str, ...], Fusion]]] = {}
    for fusion in fusions:
        for anchor in fusion.anchors:
            path = tuple(anchor.split("/"))
            by_op.setdefault(path[0], []).append((path, fusion))
    found: dict[Term, list[Fusion]] = {}
    for term in canonical.nodes:
        name = unread(term)
        for path, fusion in by_op.get(name or term.op, ()):
            if (path == (name,) or follows(term, path)) and fusion not in found.get(term, ()):
                found.setdefault(term, []).append(fusion)
    return found
