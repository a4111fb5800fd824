"""An undo log for rewrites in place: every graph is copied before it is changed.

The copies share fake values and metadata with the originals; only the structure is duplicated.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import fx


class Log:
    """Restores the graphs of a module and of the bodies inside it."""

    def __init__(self, module: fx.GraphModule) -> None:
        self.module = module
        self.saved: list[tuple[fx.GraphModule, fx.Graph]] = []

    def save(self, parts: Iterable[fx.GraphModule]) -> None:
        for part in parts:
            self.saved.append((part, copied(part.graph)))

    def restore(self) -> None:
        for part, graph in self.saved:
            abandoned, part.graph = part.graph, graph
            part.recompile()
            disconnect(abandoned)


def disconnect(graph: fx.Graph) -> None:
    """No node uses another: half rewritten, users may stand before what they use.

    Dynamo keeps the graph that it handed over, reads its inputs, and from torch 2.15 on erases it
    from its end when the backend raised, where a later node without users is taken for granted.
    """
    for node in graph.nodes:
        node.args, node.kwargs = (), {}


DYNAMO_ATTRIBUTES = ("_dynamo_source",)
"""What Dynamo puts on nodes beside their metadata."""


def copied(graph: fx.Graph) -> fx.Graph:
    """The same nodes under the same names, with their metadata."""
    copy = fx.Graph(tracer_cls=graph._tracer_cls)
    copy.set_codegen(graph._codegen)
    mapping: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        mapping[node] = copy.node_copy(node, mapping.__getitem__)
        mapping[node].name = node.name
        for attribute in DYNAMO_ATTRIBUTES:
            if hasattr(node, attribute):
                setattr(mapping[node], attribute, getattr(node, attribute))
    return copy
