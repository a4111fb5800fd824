"""Which nodes do more than return a value, and what that means for moving reads past them.

Three facts about a graph: the *region* of a node is the number of barriers before it (values may
only be recombined inside one region); a node is *volatile* when something in the graph writes to
the storage of its value; and it is *unsettled* when that happens at the node or after it (its name
does not stand for one value, so it is never looked through or merged). A view of a cache that was
written to before is volatile, and settled.
"""

from __future__ import annotations

import bisect
import weakref
from collections.abc import Iterable

import torch
from torch import fx
from torch._C import _functorch
from torch.multiprocessing.reductions import StorageWeakRef

from tile_backend.lowering import higher_order, writes
from tile_backend.lowering.node import called, called_name, value
from tile_backend.lowering.writes import flat

NEW_MEMORY = ("set_", "swap_tensors")
"""How the names of calls begin that give a tensor other memory: which one it had before, its fake
value does not say any more, so all is taken to be written to."""
CHECKS = ("_assert", "_check", "_functional_assert", "sym_constrain")
"""How the names of calls begin that return nothing because all they do is to raise."""


def is_barrier(node: fx.Node) -> bool:
    """True for a node with an effect besides its result."""
    return bool(written(node)) or is_opaque_call(node) or returns_nothing(node)


def returns_nothing(node: fx.Node) -> bool:
    """A call for its effect: it switches a mode, seeds a generator, prints. Checks only raise."""
    if node.op not in ("call_function", "call_method") or value(node) is not None:
        return False
    if getattr(node.target, "__module__", None) in writes.PURE_MODULES:
        return False
    return not called_name(node).startswith(CHECKS)


def is_opaque_call(node: fx.Node) -> bool:
    """A call of something that has a body of its own: no rewrite reaches across it."""
    return node.op == "call_module" or higher_order.is_call(node)


def written(node: fx.Node) -> list[fx.Node]:
    """The operands whose storage the node writes to."""
    if node.op == "call_module":
        return list(node.all_input_nodes)
    if node.op not in ("call_function", "call_method"):
        return []
    return written_by_bodies(node) if higher_order.is_call(node) else writes.by_call(node)


def written_by_bodies(call: fx.Node) -> list[fx.Node]:
    """The operands that a body writes to or returns: what it returns may be written to later.

    All operands, where it is not known what a body is given.
    """
    name, everything = higher_order.name(call), list(call.all_input_nodes)
    if name in higher_order.READS_ONLY:
        return []
    entries = list(higher_order.entries(call)) if name in higher_order.OPERANDS else []
    found: dict[fx.Node, None] = {}
    for entry in entries:
        places = higher_order.inputs(entry.body)
        for exposed in (places[i] for i in exposed_inputs(entry.body.graph)):
            if exposed not in entry.operands:
                return everything
            found[entry.operands[exposed]] = None
    return list(found) if entries else everything


_exposed: weakref.WeakKeyDictionary[fx.Graph, tuple[int, ...]] = weakref.WeakKeyDictionary()


def exposed_inputs(graph: fx.Graph) -> tuple[int, ...]:
    """Which inputs of a body it writes to or returns, as they are or as views, by their number.

    Remembered: no rewrite of ours changes it.
    """
    if graph not in _exposed:
        returned = {s for node in graph.output_node().all_input_nodes for s in storages(node)}
        effects = Effects(graph)
        _exposed[graph] = tuple(
            number
            for number, node in enumerate(graph.find_nodes(op="placeholder"))
            if node in effects.volatile or returned & set(storages(node))
        )
    return _exposed[graph]


def has_positional_inplace(node: fx.Node) -> bool:
    """F.relu(x, True), F.dropout(x, p, training, True): `inplace` given by position."""
    if node.op != "call_function" or not node.args or node.args[-1] is not True:
        return False
    code = getattr(node.target, "__code__", None)
    if code is None or len(node.args) > code.co_argcount:
        return False
    return str(code.co_varnames[len(node.args) - 1]) == "inplace"


def storages(node: fx.Node) -> list[StorageWeakRef]:
    found = []
    for tensor in flat(value(node)):
        if isinstance(tensor, torch.Tensor):
            try:
                found.append(StorageWeakRef(unwrapped(tensor).untyped_storage()))
            except (NotImplementedError, RuntimeError):  # sparse and other storage-less tensors
                continue
    return found


def unwrapped(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor inside those of torch.func's transforms, which have no storage of their own."""
    while _functorch.is_functorch_wrapped_tensor(tensor):
        tensor = _functorch.get_unwrapped(tensor)
    return tensor


def switched_grad(node: fx.Node, before: bool) -> bool:
    name = called_name(node)
    if name == "_set_grad_enabled":
        return bool(node.args[0])
    return name == "_exit_inference_mode" or (before and name != "_enter_inference_mode")


class Effects:
    """Regions and volatile nodes of one graph."""

    def __init__(self, graph: fx.Graph) -> None:
        self.region: dict[fx.Node, int] = {}
        self.position: dict[fx.Node, int] = {}
        self.barriers: list[fx.Node] = []
        self.without_grad: set[fx.Node] = set()
        """Nodes that run under a no-grad or inference mode which the graph itself switches on."""
        self.writers: dict[StorageWeakRef, list[fx.Node]] = {}
        """The nodes that write to a storage, in order."""
        self.memory_moves = False
        """Whether a tensor is given other memory than it had: its fake value has the last."""
        grad = True
        for position, node in enumerate(graph.nodes):
            targets = written(node)
            if targets or is_opaque_call(node) or returns_nothing(node):
                self.barriers.append(node)
                if targets and called_name(node).startswith(NEW_MEMORY):
                    self.memory_moves, targets = True, list(graph.nodes)
                for storage in {s for target in targets for s in storages(target)}:
                    self.writers.setdefault(storage, []).append(node)
            grad = switched_grad(node, grad)
            if not grad:
                self.without_grad.add(node)
            self.region[node] = len(self.barriers)
            self.position[node] = position
        self.order = tuple(self.position[barrier] for barrier in self.barriers)
        self.trains = any(
            value(node).requires_grad
            for node in graph.nodes
            if isinstance(value(node), torch.Tensor)
        )
        """Whether some value has a gradient."""
        self.volatile = {node for node in graph.nodes if self.writers and self.writes_to(node)}
        self.unsettled = {
            node
            for node in self.volatile
            if any(self.position[w] >= self.position[node] for w in self.writes_to(node))
        }

    def writes_to(self, node: fx.Node) -> list[fx.Node]:
        """The nodes that write to the storage of its value."""
        return [writer for s in storages(node) for writer in self.writers.get(s, ())]

    def overwritten(self, node: fx.Node) -> str:
        """The words of a reason: what writes to an unsettled node's value; "" for others."""
        writer = self.writer_from(node, node, None)
        if writer is None:
            return ""
        if called_name(writer).startswith(NEW_MEMORY):
            return f"{called(writer)} gives a tensor other memory, maybe that of {called(node)}"
        return f"{called(writer)} writes to the result of {called(node)}"

    def version(self, node: fx.Node, reader: fx.Node) -> int:
        """How many writes to the node's value lie between the node and who reads it."""
        first, last = self.position[node], self.position[reader]
        places = {self.position[writer] for writer in self.writes_to(node)}
        return sum(first < place < last for place in places)

    def writer_from(self, node: fx.Node, first: fx.Node, last: fx.Node | None) -> fx.Node | None:
        """A node that writes to the node's value, at `first` or after it and before `last`."""
        start = self.position[first]
        stop = len(self.position) if last is None else self.position[last]
        writers = self.writes_to(node)
        return next((w for w in writers if start <= self.position[w] < stop), None)

    def writers_among(self, nodes: Iterable[fx.Node]) -> list[fx.Node]:
        """What, between the first of these nodes and the last, writes to what they read or make.

        And what these writers read in their turn.
        """
        inside = set(nodes)
        todo, places = list(inside), [self.position[node] for node in inside]
        found: list[fx.Node] = []
        while todo:
            node = todo.pop()
            for writer in (w for n in (node, *node.all_input_nodes) for w in self.writes_to(n)):
                if writer in inside or not min(places) < self.position[writer] < max(places):
                    continue
                inside.add(writer)
                found.append(writer)
                todo.append(writer)
        return found

    def between(self, first: fx.Node, last: fx.Node) -> list[fx.Node]:
        """The barriers strictly between two nodes."""
        start = bisect.bisect_right(self.order, self.position[first])
        stop = bisect.bisect_left(self.order, self.position[last])
        return self.barriers[start:stop]
