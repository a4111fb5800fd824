"""The nodes of a near miss: from its root up to what its operands would be.

Where the graph differs from the spelling nobody knows where the operands are: there the way up ends
a few calls behind the last one that fits. An operand that is a view belongs to it: what is computed
from a view may be the view of what is computed, and then the view is why nothing matched.
"""

from __future__ import annotations

from torch import fx

from tile_backend.lowering.canonical import CALLS, CanonicalGraph
from tile_backend.lowering.canonical_ops import OPERATIONS
from tile_backend.lowering.near_miss import NearMiss
from tile_backend.lowering.uses import values_read

BEYOND = 3
"""How many calls above the last one that fits are taken along."""


def nodes(found: NearMiss, canonical: CanonicalGraph) -> list[fx.Node]:
    """In program order, the root last."""
    bound = found.binding.terms
    holes = (t for p, t in bound.items() if p.op == "hole" and not OPERATIONS[t.op].shareable)
    operands = {node for term in holes for node in canonical.nodes.get(term, ())}
    fits = {n for p, t in bound.items() if p.op != "hole" for n in canonical.nodes.get(t, ())}
    reach = {found.root: BEYOND}
    todo = [found.root]
    while todo:
        node = todo.pop()
        for source in values_read(node):
            left = BEYOND if source in fits else reach[node] - 1
            if source.op in CALLS and source not in operands and left > reach.get(source, -1):
                reach[source] = left
                todo.append(source)
    return sorted(reach)
