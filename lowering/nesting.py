"""From where the bodies inside a graph are called: what a value of a body is in the graph outside.

A mask is computed once and given to every checkpointed layer, so its formula goes on in the graph
that makes the call. A body with several calls has a reader for each of them; what holds for the
body is what all of them say.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import fx

from tile_backend.lowering import higher_order
from tile_backend.lowering.effects import Effects
from tile_backend.lowering.higher_order import Entry
from tile_backend.lowering.mask.reader import Outside, Reader

MOST_CALLS = 64
"""Of one body, counted through all that contain it; with more of them its inputs stay unknown."""


class Nesting:
    """The calls of the bodies of one graph. entries: of a body's graph -> its calls.

    Made once no graph changes any more; it is true until one does.
    """

    def __init__(self, graphs: Iterable[fx.Graph]) -> None:
        self.effects = {graph: Effects(graph) for graph in graphs}
        self.entries: dict[fx.Graph, list[Entry]] = {graph: [] for graph in self.effects}
        for graph in self.effects:
            for call in filter(higher_order.is_call, graph.nodes):
                for entry in higher_order.entries(call):
                    self.entries[entry.body.graph].append(entry)
        self._readers: dict[fx.Graph, tuple[Reader, ...]] = {}

    def readers(self, graph: fx.Graph) -> tuple[Reader, ...]:
        """Of a body one for each way to it; of the graph that contains all the one."""
        if graph not in self._readers:
            effects = self.effects[graph]
            found = [
                Reader(effects, Outside(reader, entry.call, entry.operands))
                for entry in self.entries[graph]
                for reader in self.readers(entry.call.graph)
            ]
            usable = 0 < len(found) <= MOST_CALLS
            self._readers[graph] = tuple(found) if usable else (Reader(effects),)
        return self._readers[graph]
