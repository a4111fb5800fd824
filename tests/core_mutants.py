"""Edits of a captured graph that change what it computes, one small thing each."""

from __future__ import annotations

import operator
import random
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx

from tests.core_edits import Edit, calls, put_after
from tile_backend.lowering.node import value


def other_number(  # noqa: C901 - one case per kind of argument
    graph: fx.Graph, node: fx.Node, choice: random.Random
) -> str:
    """One literal in the arguments, dims and slice bounds included, is another one."""
    places: list[Any] = []

    def find(argument: Any) -> Any:
        if type(argument) in (int, float):
            places.append(argument)
        return argument

    def walk(argument: Any, change: Callable[[Any], Any]) -> Any:
        if isinstance(argument, (tuple, list)):
            return type(argument)(walk(a, change) for a in argument)
        if isinstance(argument, slice):
            return slice(*(walk(p, change) for p in (argument.start, argument.stop, argument.step)))
        return change(argument)

    walk(tuple(node.args), find)
    walk(tuple(node.kwargs.values()), find)
    if not places:
        return ""
    target, seen = choice.randrange(len(places)), -1
    new: Any = None

    def change(argument: Any) -> Any:
        nonlocal seen, new
        if type(argument) not in (int, float):
            return argument
        seen += 1
        if seen != target:
            return argument
        if type(argument) is int:
            steps = (-2, -1, 1, 2) if argument <= 0 else (-1, 1, 2)[argument == 1 :]
            new = argument + choice.choice(steps)  # never from a count to 0: torch may divide by it
        else:
            new = choice.choice((argument * 1.5, -argument, argument + 1.0, 0.0, 1.0))
        return new

    node.args = walk(tuple(node.args), change)
    node.kwargs = {name: walk(a, change) for name, a in node.kwargs.items()}
    return f"{node.name}: {places[target]} -> {new}"


def dropped(graph: fx.Graph, node: fx.Node, choice: random.Random) -> str:
    """The op is left out: its users read one of its operands."""
    sources = [a for a in node.all_input_nodes if isinstance(value(a), torch.Tensor)]
    if not sources:
        return ""
    source = choice.choice(sources)
    node.replace_all_uses_with(source)
    graph.erase_node(node)
    return f"{node.name} dropped for {source.name}"


def swapped(graph: fx.Graph, node: fx.Node, choice: random.Random) -> str:
    """The first two operands change places."""
    args = list(node.args)
    if args and isinstance(args[0], (tuple, list)) and len(args[0]) == 2:
        args[0] = tuple(reversed(args[0]))
    elif len(args) >= 2 and isinstance(args[1], fx.Node):
        args[0], args[1] = args[1], args[0]
    else:
        return ""
    node.args = tuple(args)
    return f"{node.name}: operands swapped"


def rewired(graph: fx.Graph, node: fx.Node, choice: random.Random) -> str:
    """One operand is another value of the program."""
    operands = [a for a in node.all_input_nodes if isinstance(value(a), torch.Tensor)]
    earlier = []
    for candidate in graph.nodes:
        if candidate is node:
            break
        if isinstance(value(candidate), torch.Tensor):
            earlier.append(candidate)
    if not operands or not earlier:
        return ""
    old, new = choice.choice(operands), choice.choice(earlier)
    if old is new:
        return ""
    node.replace_input_with(old, new)
    return f"{node.name}: {old.name} -> {new.name}"


UNARY: tuple[Any, ...] = (
    torch.sqrt, torch.rsqrt, torch.neg, torch.abs, torch.tanh, torch.sigmoid, F.silu, F.gelu,
    torch.square, torch.relu, torch.exp,
)  # fmt: skip
BINARY: tuple[Any, ...] = (
    operator.add, operator.mul, operator.sub, operator.truediv, torch.maximum,
)  # fmt: skip


def other_op(graph: fx.Graph, node: fx.Node, choice: random.Random) -> str:
    """Another function of the same operands."""
    nodes = [a for a in node.args if isinstance(a, fx.Node)]
    before = node.target
    if len(node.args) == len(nodes) == 1 and not node.kwargs:
        put_target(node, choice.choice(UNARY))
    elif len(node.args) == 2 and nodes and before in BINARY:
        put_target(node, choice.choice(BINARY[: 4 + (len(nodes) == 2)]))
    elif before == "mean":
        node.target = choice.choice(("sum", "amax"))
    elif before is F.softmax:
        node.target = F.log_softmax
    elif before in (torch.cat, torch.stack):
        node.target = torch.stack if before is torch.cat else torch.cat
    return "" if node.target == before else f"{node.name}: {before} -> {node.target}"


def put_target(node: fx.Node, target: Any) -> None:
    node.op, node.target = "call_function", target


def scaled_operand(graph: fx.Graph, node: fx.Node, choice: random.Random) -> str:
    """alpha=2 on a sum or a difference."""
    kinds = {operator.add: torch.add, operator.sub: torch.sub}
    if node.target not in kinds or not isinstance(node.args[0], fx.Node):
        return ""
    node.target, node.kwargs = kinds[node.target], {"alpha": 2}
    return f"{node.name}: alpha=2"


def other_cast(graph: fx.Graph, node: fx.Node, choice: random.Random) -> str:
    """A cast to another dtype, or one more cast, there and back."""
    known = value(node)
    if not isinstance(known, torch.Tensor) or not known.is_floating_point():
        return ""
    dtype = choice.choice((torch.float32, torch.bfloat16, torch.float16, torch.float64))
    if node.target in ("to", "float") and node.op == "call_method":
        node.target, node.args = "to", (node.args[0], dtype)
        return f"{node.name}: cast to {dtype}"
    put_after(graph, node, lambda x: x.to(dtype).to(known.dtype))
    return f"{node.name}: rounded to {dtype}"


def changed_after(graph: fx.Graph, node: fx.Node, choice: random.Random) -> str:
    """A small computation between a value and its users."""
    index = choice.randrange(len(CHANGES))
    if not isinstance(value(node), torch.Tensor) or value(node).dim() < 2:
        return ""
    put_after(graph, node, CHANGES[index])
    return f"{node.name}: change {index}"


CHANGES: tuple[Callable[..., Any], ...] = (
    lambda x: x * 1.5,
    lambda x: x + 0.5,
    lambda x: x.flip(-1),
    lambda x: x.roll(1, -1),
    lambda x: x[..., :1].expand_as(x),
    lambda x: x.transpose(-1, -2).reshape(x.shape),
    lambda x: x.clamp(min=0.25),
    lambda x: x.mean(-1, keepdim=True).expand_as(x),
    lambda x: x.cumsum(-1),
)


def also_returned(graph: fx.Graph, node: fx.Node, choice: random.Random) -> str:
    """An interior value is a result of the program as well."""
    (output,) = graph.find_nodes(op="output")
    (results,) = output.args
    if not isinstance(value(node), torch.Tensor) or node in results:
        return ""
    output.args = ((*results, node),)
    return f"{node.name} returned"


CHANGING: list[Edit] = [
    other_number,
    other_number,
    dropped,
    swapped,
    rewired,
    rewired,
    other_op,
    scaled_operand,
    other_cast,
    changed_after,
    also_returned,
]


# --- edits that change only gradients ------------------------------------------------------------


def detached(graph: fx.Graph, node: fx.Node, choice: random.Random) -> str:
    """Uses of the value see a constant."""
    if not isinstance(value(node), torch.Tensor):
        return ""
    put_after(graph, node, lambda x: x.detach())
    return f"{node.name} detached"


def without_grad(graph: fx.Graph, node: fx.Node, choice: random.Random) -> str:
    """A stretch of the program runs under no_grad."""
    nodes = calls(graph)
    if node not in nodes:
        return ""
    end = choice.choice(nodes[nodes.index(node) :]).next
    for place, enabled in ((node, False), (end, True)):
        with graph.inserting_before(place):
            graph.call_function(torch._C._set_grad_enabled, (enabled,))
    return f"no_grad from {node.name} to {end.name}"


CUTTING: list[Edit] = [detached, detached, without_grad]
