"""Taking back what was done to graphs.

`Log` copies every graph before it is changed. The copies share fake values and metadata with the
originals; only the structure is duplicated. `Journal` takes back the few steps of one candidate,
and leaves what others have done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import fx


class Log:
    """Restores the graphs of a module and of the bodies inside it, once.

    And what the modules hold: Inductor's passes put other bodies in the place of these.
    """

    def __init__(self, module: fx.GraphModule) -> None:
        self.module = module
        self.saved: list[tuple[fx.GraphModule, fx.Graph, dict[str, Any]]] = []

    def save(self, parts: Iterable[fx.GraphModule]) -> None:
        for part in parts:
            self.saved.append((part, copied(part.graph), dict(part._modules)))

    def restore(self) -> None:
        for part, graph, held in self.saved:
            abandoned, part.graph = part.graph, graph
            part._modules.clear()
            part._modules.update(held)
            part.recompile()
            disconnect(abandoned)
        self.saved.clear()


class Journal:
    """Steps, each with what takes it back."""

    def __init__(self) -> None:
        self._back: list[Callable[[], object]] = []

    def add(self, back: Callable[[], object]) -> None:
        self._back.append(back)

    def undo(self) -> None:
        """Newest first."""
        while self._back:
            self._back.pop()()

    def keep(self) -> None:
        """These steps stay."""
        self._back.clear()


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
