"""Functions of torch that Dynamo keeps as one node, written out where our fusions lie inside them.

`F.multi_head_attention_forward` (nn.MultiheadAttention, nn.TransformerEncoderLayer) is Python that
calls `scaled_dot_product_attention`. The node is replaced by the calls it makes, recorded on the
graph's own fake tensors: what AOTAutograd would trace a moment later anyway.
"""

from __future__ import annotations

import functools
import operator
import types as types_module
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx
from torch._dispatch.python import enable_python_dispatcher
from torch.overrides import TorchFunctionMode

from tile_backend.lowering import failure
from tile_backend.lowering.effects import is_barrier
from tile_backend.lowering.legality import fake_mode_of
from tile_backend.lowering.node import value
from tile_backend.lowering.reference import as_tuple
from tile_backend.lowering.rewrite import KEPT_META
from tile_backend.lowering.undo import Journal

COMPOSITES = frozenset((F.multi_head_attention_forward,))


class Unrecordable(Exception):
    """The function made a tensor that no recorded call returned, or a size that none has."""


class Inliner(TorchFunctionMode):
    """Appends the torch calls made inside it to a graph, before the current insertion point."""

    def __init__(self, graph: fx.Graph, origin: fx.Node) -> None:
        super().__init__()
        self.graph, self.origin = graph, origin
        self.nodes: dict[int, fx.Node] = {}
        self.alive: list[torch.Tensor] = []
        self.sizes: dict[Any, tuple[fx.Node, int | None]] = {}
        """Symbolic size -> a tensor and its dimension of that size, or the size's own node."""

    def bind(self, operand: Any, node: fx.Node) -> None:
        """A tensor or a size of the graph, from here on written as the node."""
        if isinstance(operand, torch.SymInt):
            self.sizes[operand.node.expr] = node, None
        if not isinstance(operand, torch.Tensor):
            return
        self.nodes[id(operand)] = node
        self.alive.append(operand)
        for dim, size in enumerate(operand.shape):
            if isinstance(size, torch.SymInt):
                self.sizes.setdefault(size.node.expr, (node, dim))

    def written(self, argument: Any) -> Any:
        """The argument with nodes in place of tensors and symbolic sizes as they are."""
        if isinstance(argument, torch.Tensor):
            if id(argument) not in self.nodes:
                raise Unrecordable(str(self.origin.target))
            return self.nodes[id(argument)]
        if isinstance(argument, (tuple, list)):
            return type(argument)(self.written(a) for a in argument)
        return self.sized(argument) if isinstance(argument, torch.SymInt) else argument

    def sized(self, symbol: torch.SymInt) -> Any:
        """A symbolic size: read off a tensor that has it, or computed from such sizes."""
        return self.computed(symbol.node.expr)

    def computed(self, expression: Any) -> Any:
        if expression.is_Integer:
            return int(expression)
        if expression in self.sizes:
            tensor, dim = self.sizes[expression]
            if dim is None:
                return tensor
            return self.noted("size", (tensor, dim), value(tensor).shape[dim])
        operation = {"Mul": operator.mul, "Add": operator.add}.get(type(expression).__name__)
        if operation is None:
            raise Unrecordable(f"the symbolic size {expression}")
        result, *others = (self.computed(part) for part in expression.args)
        for other in others:
            result = self.noted(operation, (result, other), operation(value(result), value(other)))
        return result

    def noted(self, target: Any, args: tuple[Any, ...], size: Any) -> fx.Node:
        kind = "call_method" if isinstance(target, str) else "call_function"
        node = self.graph.create_node(kind, target, args)
        self.annotate(node, size)
        return node

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        # torch 2.11's own kernel of this composite op reads symbolic sizes as ints.
        composite = enable_python_dispatcher() if function is F.linear else nullcontext()
        with composite:
            result = function(*args, **kwargs)
        if not any(isinstance(r, torch.Tensor) for r in as_tuple(result)):
            return result
        if getattr(function, "__name__", "") == "__get__":
            raise Unrecordable(f"the attribute {function.__self__.__name__}")
        given = self.written(tuple(args)), {k: self.written(v) for k, v in kwargs.items()}
        if isinstance(function, types_module.MethodDescriptorType):
            node = self.graph.call_method(function.__name__, *given)
        else:
            node = self.graph.call_function(function, *given)
        self.annotate(node, result)
        return result

    def annotate(self, node: fx.Node, result: Any) -> None:
        node.meta.update({k: self.origin.meta[k] for k in KEPT_META if k in self.origin.meta})
        node.meta["example_value"] = result
        if not isinstance(result, (tuple, list)):
            self.bind(result, node)
            return
        for index, part in enumerate(result):
            if isinstance(part, torch.Tensor):
                self.annotate(self.graph.call_function(operator.getitem, (node, index)), part)


def inline(module: fx.GraphModule) -> int:
    """Write out every composite; returns how many. One that cannot be recorded stays as it is."""
    found = 0
    composites = [n for n in module.graph.nodes if n.target in COMPOSITES]
    for node in composites:
        journal = Journal()
        given = module.graph, node, journal
        if failure.instead(False, "writing it out", node, inlined, *given):
            found += 1
        else:
            journal.undo()
    if composites:
        module.recompile()
    return found


def inlined(graph: fx.Graph, node: fx.Node, journal: Journal) -> bool:
    """Replace one node; where it cannot be recorded, the journal takes back what was done."""
    before = set(graph.nodes)
    journal.add(lambda: erase([n for n in graph.nodes if n not in before]))
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), value)
    assert callable(node.target)
    try:
        with graph.inserting_before(node), fake_mode_of([value(n) for n in node.all_input_nodes]):
            recorder = Inliner(graph, node)
            for operand in node.all_input_nodes:
                recorder.bind(value(operand), operand)
            with recorder, torch.set_grad_enabled(wants_grad(value(node))):
                result = composite(node.target, args, kwargs)
            results = recorder.written(as_tuple(result))
    except (Unrecordable, RuntimeError):  # some fake kernels of torch take no symbolic sizes
        return False
    replace(graph, node, results, journal)
    made = [n for n in graph.nodes if n not in before]
    erase([n for n in made if not is_barrier(n)])  # weights that the caller did not take
    return True


def erase(nodes: list[fx.Node]) -> None:
    """Those that nobody reads, last first."""
    for node in reversed(nodes):
        if not node.users:
            node.graph.erase_node(node)


def wants_grad(result: Any) -> bool:
    return any(r.requires_grad for r in as_tuple(result) if isinstance(r, torch.Tensor))


def composite(function: Any, args: Any, kwargs: Any) -> Any:
    """The function's body, without its first step, which hands the whole call to an active mode."""
    names = {**function.__globals__, "has_torch_function": lambda tensors: False}
    body = types_module.FunctionType(
        function.__code__, names, function.__name__, function.__defaults__, function.__closure__
    )
    return body(*args, **kwargs)


def replace(graph: fx.Graph, node: fx.Node, results: tuple[Any, ...], journal: Journal) -> None:
    """Every `node[i]` becomes the i-th result."""
    found: list[tuple[fx.Node, fx.Node]] = []
    for user in node.users:
        index = user.args[1]
        assert user.target is operator.getitem
        assert isinstance(index, int)
        if isinstance(result := results[index], fx.Node):
            found.append((user, result))
    for user, result in found:
        for reader in list(user.users):
            journal.add(functools.partial(reader.replace_input_with, result, user))
        user.replace_all_uses_with(result)
    journal.keep()
    for user, _ in found:
        graph.erase_node(user)
    if not node.users:
        graph.erase_node(node)
