"""The nodes of a match: what it would elide, what it reads, and who else looks inside.

Computed on nodes, not terms, by walking from the results up to the operands: whatever the
identities did to the terms, everything on that way is what the rewrite removes. Where the way leads
past an operand (a rotation of bfloat16 values, joined and then cast, beside the cast of the whole),
the operand is written down again from what is reached there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import torch
from torch import fx

from tile_backend.lowering.canonical import CanonicalGraph
from tile_backend.lowering.canonical_ops import OPERATIONS
from tile_backend.lowering.effects import is_barrier
from tile_backend.lowering.match import Match
from tile_backend.lowering.node import value
from tile_backend.lowering.terms import Term, TermTable, can_be_written
from tile_backend.lowering.uses import holds_tensors, values_read

MOST_COPIES = 50
"""Calls between an operand and a node with its value."""


@dataclasses.dataclass(frozen=True)
class Extent:
    """The nodes of one match, each group in graph order but `roots`.

    roots:    one node per result, the main one first.
    interior: elided nodes without the main root.
    operands: nodes that the new op reads.
    escapes:  interior nodes of weight that are used outside.
    read:     for each root, whether anything else in the graph needs it.
    equal:    nodes with the value of one that the op reads, such as a cast that changes nothing.
    stood_for: for each operand the nodes that the program reads in its place, itself perhaps.
    """

    roots: tuple[fx.Node, ...]
    interior: tuple[fx.Node, ...]
    operands: tuple[fx.Node, ...]
    escapes: tuple[fx.Node, ...]
    read: tuple[bool, ...]
    equal: Mapping[fx.Node, fx.Node] = dataclasses.field(default_factory=dict)
    stood_for: Mapping[fx.Node, tuple[fx.Node, ...]] = dataclasses.field(default_factory=dict)

    @property
    def elided(self) -> tuple[fx.Node, ...]:
        return (*self.interior, *(r for r in self.roots if r not in self.interior))


def extent(match: Match, canonical: CanonicalGraph) -> Extent | None:
    """None when a result is not a node of the graph (it exists only as a derived term)."""
    roots = tuple(root.node for root in match.roots if root.node is not None)
    if len(roots) < len(match.roots):
        return None
    bases = operand_bases(match)
    stops = {node for term in bases for node in canonical.nodes[term]}
    order = canonical.effects.position
    interior = computed(reached(roots[0], stops), stops, order)
    inside = {*interior, *roots}
    equal = {
        node: term.node
        for term in bases
        for node in canonical.nodes[term]
        if term.node is not None and node is not term.node
    }
    uses = canonical.uses
    read = {source for node in inside for source in values_read(node) if source in stops}
    return Extent(
        roots,
        tuple(interior),
        tuple(sorted((t.node for t in bases if t.node is not None), key=order.__getitem__)),
        tuple(n for n in interior if n not in roots and escapes_from(n, inside, canonical)),
        tuple(any(user not in inside for user in uses.of(root)) for root in roots),
        equal,
        {
            term.node: tuple(n for n in canonical.nodes[term] if n in read)
            for term in bases
            if term.node is not None
        },
    )


def operand_bases(match: Match) -> set[Term]:
    """The operand terms; for a derived operand, the terms of the graph that it is derived from."""
    return bases_of(match.operands.values())


def bases_of(terms: Iterable[Term]) -> set[Term]:
    found: set[Term] = set()
    todo = list(terms)
    while todo:
        term = todo.pop()
        if term.node is None:
            todo += term.made_of
        else:
            found.add(term)
    return found


def reached(root: fx.Node, stops: Collection[fx.Node]) -> dict[fx.Node, None]:
    """Everything that the root's value is computed from, up to the stops and without them."""
    found: dict[fx.Node, None] = {}
    todo = [root]
    while todo:
        for source in values_read(todo.pop()):
            if source not in stops and source not in found and holds_tensors(source):
                found[source] = None
                todo.append(source)
    return found


def computed(
    nodes: Iterable[fx.Node], stops: Collection[fx.Node], order: Mapping[fx.Node, int]
) -> list[fx.Node]:
    """Those of the nodes that are computed from the stops, in graph order.

    The rest is part of no site: what the identities found to be without influence, such as the
    other part of a joined tensor of which a slice takes one.
    """
    found: dict[fx.Node, None] = {}
    for node in sorted(nodes, key=order.__getitem__):
        if any(source in stops or source in found for source in values_read(node)):
            found[node] = None
    return list(found)


def meeting_operands(match: Match, canonical: CanonicalGraph) -> Match:
    """The match with operands that every way up from the result meets.

    An operand whose node such a way leads past, to what that node is a cast or a view of, is made
    from that anew: else the op would read the one, and the nodes that it elides the other.
    """
    root = match.roots[0].node
    while root is not None:
        bases = operand_bases(match)
        stops = {node for term in bases for node in canonical.nodes[term]}
        ways = reached(root, stops)
        passed = set(ways).difference(computed(ways, stops, canonical.effects.position))
        opened = {
            term
            for term in bases
            if can_be_written(term)
            and any(passed.intersection(canonical.nodes[t]) for t in bases_of(term.made_of))
        }
        if not opened:
            break
        operands = {n: rewritten(t, opened, canonical.table) for n, t in match.operands.items()}
        match = dataclasses.replace(match, operands=operands)
    return match


def rewritten(term: Term, opened: Collection[Term], table: TermTable) -> Term:
    """The term with these parts of it written down anew, in place of the nodes that hold them."""
    if term in opened:
        return table.written(term, term.made_of)
    if term.node is not None:
        return term
    inner = tuple(rewritten(part, opened, table) for part in term.made_of)
    return term if inner == term.made_of else table.written(term, inner)


def shareable(node: fx.Node, canonical: CanonicalGraph) -> bool:
    """Whether a node may belong to several rewrites, and be read outside of them.

    A tuple (chunk, split) is what its parts are.
    """
    parts = canonical.parts(node)
    return bool(parts) and all(
        OPERATIONS[term.op].shareable or OPERATIONS[term.op].free for term in parts
    )


def escapes_from(node: fx.Node, inside: Collection[fx.Node], canonical: CanonicalGraph) -> bool:
    if shareable(node, canonical):
        return False
    return any(user not in inside for user in canonical.uses.of(node))


def copies(extent: Extent, writers: Callable[[fx.Node], Sequence[fx.Node]]) -> set[fx.Node]:
    """What copies operands that are written to, for the nodes that the program reads instead.

    writers: of a node's value.
    """
    pairs = [(n, operand) for operand, read in extent.stood_for.items() for n in read]
    written = [(node, operand) for node, operand in pairs if writers(operand)]
    return {step for node, operand in written for step in path(node, operand)}


def path(node: fx.Node, source: fx.Node) -> set[fx.Node]:
    """The calls that make a node of `source` alone; nothing where there are other sources."""
    found, todo = set[fx.Node](), [node]
    while todo:
        current = todo.pop()
        if current is source or current in found:
            continue
        if not current.op.startswith("call") or is_barrier(current) or len(found) > MOST_COPIES:
            return set()
        found.add(current)
        todo += [n for n in current.all_input_nodes if isinstance(value(n), torch.Tensor)]
    return found
