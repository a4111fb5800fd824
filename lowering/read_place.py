"""The op reads all its operands at one place: does it find there what the program's ops found?

A write in between, to an operand or to what an operand was copied from, a switch of autocast or
grad mode, and an operand that comes too late are in the way; in training also a write after the op,
to what its backward needs.
"""

from __future__ import annotations

from torch import fx

from tile_backend.lowering.canonical import CanonicalGraph
from tile_backend.lowering.effects import is_opaque_call, storages, written
from tile_backend.lowering.extent import Extent
from tile_backend.lowering.mask.reader import Reader
from tile_backend.lowering.node import called
from tile_backend.lowering.reason import Reason, ReasonKind

Check = Reason | None


def same_versions(extent: Extent, canonical: CanonicalGraph) -> Check:
    """The op finds in every tensor what the ops find in it that it takes the place of."""
    return undisturbed(extent, canonical) or unchanged(extent, canonical)


def unchanged(extent: Extent, canonical: CanonicalGraph) -> Check:
    """Nothing writes to an operand between a node that the program reads for it and the op.

    The operand may be another node with the same value: what was copied, say.
    """
    where, effects = place(extent, canonical), canonical.effects
    order = effects.position
    first = min(extent.elided, key=order.__getitem__)
    for operand, read in extent.stood_for.items():
        for node in read or (first,):
            if node is operand:
                continue
            start, stop = sorted((node, where), key=order.__getitem__)
            writer = effects.writer_from(operand, start, stop)
            if writer is not None:
                return Reason(
                    ReasonKind.MUTATION_BARRIER,
                    f"{called(writer)} writes to what {called(node)} was made from, before"
                    f" {called(where)}",
                    writer.name,
                )
    return None


def kept(extent: Extent, canonical: CanonicalGraph) -> Check:
    """In training nothing writes to an operand after the op, of a body neither outside its call.

    The op keeps its operands for its backward, where the original code may keep something else:
    what it has cast, say. Without a gradient of its own it may be run again for that of others.
    """
    if not any(reader.trains for reader in canonical.masks):
        return None
    where = place(extent, canonical)
    for operand in extent.operands:
        found = (later_writer(reader, operand, where) for reader in canonical.masks)
        for writer in filter(None, found):
            return Reason(
                ReasonKind.MUTATION_BARRIER,
                f"{called(writer)} writes to {called(operand)}, which the op would keep for its"
                " backward",
                writer.name,
            )
    return None


def later_writer(reader: Reader, node: fx.Node, where: fx.Node) -> fx.Node | None:
    """What writes to the node's value after `where`, or to what it is outside of the body."""
    effects, outside = reader.effects, reader.outside
    last = effects.position[where]
    writer = next((w for w in effects.writes_to(node) if effects.position[w] >= last), None)
    if writer is None and outside is not None and node in outside.operands:
        return later_writer(outside.reader, outside.operands[node], outside.call.next)
    return writer


def undisturbed(extent: Extent, canonical: CanonicalGraph) -> Check:
    """Nothing between the first elided node and the last changes what the op reads or how it runs.

    The op reads all its operands at one place. A write between a node and that place matters when
    it is to what the node reads; a switch of autocast or grad mode, or a body that may write to
    anything, always does.
    """
    where = place(extent, canonical)
    order = canonical.effects.position
    elided = sorted(extent.elided, key=order.__getitem__)
    for barrier in canonical.effects.between(elided[0], elided[-1]):
        crossed = [
            n for n in elided if (order[n] < order[barrier]) == (order[barrier] < order[where])
        ]
        read = {s for node in crossed for n in (node, *node.all_input_nodes) for s in storages(n)}
        targets = {s for node in written(barrier) for s in storages(node)}
        if not targets or is_opaque_call(barrier) or targets & read:
            return Reason(
                ReasonKind.MUTATION_BARRIER,
                f"{called(barrier)} has a side effect between {called(elided[0])} and"
                f" {called(elided[-1])}",
                barrier.name,
            )
    return None


def place(extent: Extent, canonical: CanonicalGraph) -> fx.Node:
    """The node before which the op goes: the first to need a result, or the main result itself."""
    order = canonical.effects.position
    gone = set(extent.elided) - surviving(extent, canonical)
    users = [u for root in extent.roots for u in canonical.uses.of(root) if u not in gone]
    return min((extent.roots[0], *users), key=order.__getitem__)


def surviving(extent: Extent, canonical: CanonicalGraph) -> set[fx.Node]:
    """Elided nodes that stay because something outside needs them: casts and views are shared."""
    inside, found = set(extent.elided), set[fx.Node]()
    for node in reversed(extent.interior):
        users = canonical.uses.of(node)
        if node not in extent.roots and any(u not in inside or u in found for u in users):
            found.add(node)
    return found


def in_order(extent: Extent, canonical: CanonicalGraph) -> Check:
    order = canonical.effects.position
    where = place(extent, canonical)
    late = [n for n in extent.operands if order[n] >= order[where]]
    if late:
        return Reason(
            ReasonKind.OPERAND_ORDER_UNSUPPORTED,
            f"{called(late[0])} comes only after {called(where)} uses a result",
            late[0].name,
        )
    return None
