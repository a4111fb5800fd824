"""The nodes of a match: what it would elide, what it reads, and who else looks inside.

Computed on nodes, not terms, by walking from the results up to the operands: whatever the
identities did to the terms, everything on that way is what the rewrite removes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import fx

from tile_backend.lowering.canonical import CanonicalGraph
from tile_backend.lowering.effects import is_barrier
from tile_backend.lowering.match import Match
from tile_backend.lowering.node import called_name, value
from tile_backend.lowering.terms import Term

CHEAP = frozenset(
    (
        "cast",
        "slice",
        "select",
        "permute",
        "reshape",
        "expand",
        "repeat_interleave",
        "leaf",
        "number",
    )
)
"""Operations that may be computed twice: an interior value of one of these may be used outside."""

MOST_COPIES = 50
"""Calls between an operand and a node with its value."""

METADATA = frozenset(
    ("size", "dim", "numel", "stride", "is_contiguous", "element_size", "get_device", "ndimension")
)


@dataclasses.dataclass(frozen=True)
class Extent:
    """The nodes of one match, each group in graph order but `roots`.

    roots:    one node per result, the main one first.
    interior: elided nodes without the main root.
    operands: nodes that the new op reads.
    escapes:  interior nodes of weight that are used outside.
    equal:    nodes with the value of one that the op reads, such as a cast that changes nothing.
    stood_for: for each operand the nodes that the program reads in its place, itself perhaps.
    """

    roots: tuple[fx.Node, ...]
    interior: tuple[fx.Node, ...]
    operands: tuple[fx.Node, ...]
    escapes: tuple[fx.Node, ...]
    equal: Mapping[fx.Node, fx.Node] = dataclasses.field(default_factory=dict)
    stood_for: Mapping[fx.Node, tuple[fx.Node, ...]] = dataclasses.field(default_factory=dict)

    @property
    def elided(self) -> tuple[fx.Node, ...]:
        return (*self.interior, *(r for r in self.roots if r not in self.interior))

    @property
    def read(self) -> tuple[bool, ...]:
        """For each root, whether anything else in the graph reads it."""
        elided = set(self.elided)
        return tuple(any(user not in elided for user in root.users) for root in self.roots)


def extent(match: Match, canonical: CanonicalGraph) -> Extent | None:
    """None when a result is not a node of the graph (it exists only as a derived term)."""
    if any(root.node is None for root in match.roots):
        return None
    roots = tuple(root.node for root in match.roots if root.node is not None)
    bases = operand_bases(match)
    stops = {node for term in bases for node in canonical.nodes[term]}
    operands = {term.node for term in bases if term.node is not None}
    equal = {
        node: term.node
        for term in bases
        for node in canonical.nodes[term]
        if term.node is not None and node is not term.node
    }
    interior, read, outside = walked(roots[0], stops)
    operands |= outside
    inside = {*interior, *roots}
    order = canonical.effects.position
    escapes = [n for n in interior if n not in roots and escapes_from(n, inside, canonical)]
    return Extent(
        roots,
        tuple(sorted(interior, key=order.__getitem__)),
        tuple(sorted(operands, key=order.__getitem__)),
        tuple(sorted(escapes, key=order.__getitem__)),
        equal,
        {
            term.node: tuple(n for n in canonical.nodes[term] if n in read)
            for term in bases
            if term.node is not None
        },
    )


def walked(
    root: fx.Node, stops: set[fx.Node]
) -> tuple[dict[fx.Node, None], set[fx.Node], set[fx.Node]]:
    """Up from the main root: the nodes on the way, the stops that end it, and inputs that do."""
    interior: dict[fx.Node, None] = {}
    read, inputs = set[fx.Node](), set[fx.Node]()
    todo = [root]
    while todo:
        for source in todo.pop().all_input_nodes:
            if source in stops:
                read.add(source)
            elif source in interior or not holds_tensors(source):
                continue
            elif source.op not in ("call_function", "call_method"):
                inputs.add(source)
            else:
                interior[source] = None
                todo.append(source)
    return interior, read, inputs


def operand_bases(match: Match) -> set[Term]:
    """The operand terms; for a derived operand, the terms of the graph that it is derived from."""
    found: set[Term] = set()
    todo: list[Term] = list(match.operands.values())
    while todo:
        term = todo.pop()
        if term.node is None:
            todo += term.args
        else:
            found.add(term)
    return found


def holds_tensors(node: fx.Node) -> bool:
    return isinstance(value(node), (torch.Tensor, tuple, list))


def escapes_from(node: fx.Node, inside: set[fx.Node], canonical: CanonicalGraph) -> bool:
    term = canonical.term.get(node)
    if term is None or term.op in CHEAP:  # a tuple (chunk, split), a view, a cast
        return False
    return any(user not in inside and not is_metadata(user) for user in node.users)


def is_metadata(node: fx.Node) -> bool:
    """A use that reads shape or dtype, not values."""
    return called_name(node) in METADATA or node.target is getattr


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
