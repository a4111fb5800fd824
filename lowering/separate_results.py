"""Results that the program keeps apart stay apart where torch finds that they are equal.

Before it partitions a joint graph torch merges nodes that compute the same (`fx_graph_cse`), but
none whose memory is returned. It cannot tell this of an op with several results: two equal calls
become one, and a write to what the first returned changes what the second did. So a result that is
returned, and that an equal call returns as well, is copied.
"""

from __future__ import annotations

import operator
from collections.abc import Hashable
from typing import Any

import torch
from torch import fx

from tile_backend.lowering import custom_op


def keep_apart(graph: fx.Graph) -> None:
    """Put in the copies. What is called equal here may be more than what torch merges."""
    returned = {place for n in graph.output_node().all_input_nodes for place in storage(n)}
    ours = {overload for r in custom_op.records() for overload in (r.overload, r.interpreted)}
    numbers: dict[fx.Node, Hashable] = {}
    met: dict[Hashable, Hashable] = {}
    first: set[tuple[Hashable, Any]] = set()
    for node in list(graph.nodes):
        numbers[node] = number(node, numbers, met)
        if node.target not in ours:
            continue
        for part in [user for user in node.users if user.target is operator.getitem]:
            if returned.isdisjoint(storage(part)):
                continue
            result = numbers[node], part.args[1]
            if result in first:
                copy(graph, part)
            first.add(result)


def number(
    node: fx.Node, numbers: dict[fx.Node, Hashable], met: dict[Hashable, Hashable]
) -> Hashable:
    """Equal for calls of one function with equal arguments."""
    if node.op != "call_function":
        return node.name
    call = node.target, frozen(node.args, numbers), frozen(node.kwargs, numbers)
    return met.setdefault(call, node.name)


def frozen(value: Any, numbers: dict[fx.Node, Hashable]) -> Hashable:
    """An argument as something that can be compared, with its type: 1 is not 1.0."""
    if isinstance(value, fx.Node):
        return fx.Node, numbers[value]
    if isinstance(value, (list, tuple)):
        return tuple, *(frozen(part, numbers) for part in value)
    if isinstance(value, dict):
        return dict, *((key, frozen(part, numbers)) for key, part in value.items())
    if isinstance(value, slice):
        return slice, *(frozen(v, numbers) for v in (value.start, value.stop, value.step))
    return type(value), str(value)


def storage(node: fx.Node) -> tuple[Hashable, ...]:
    """The memory of a value, if it is one dense tensor."""
    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor) or value.layout is not torch.strided:
        return ()
    return (value.untyped_storage()._cdata,)


def copy(graph: fx.Graph, part: fx.Node) -> None:
    """All that reads this result reads a copy."""
    with graph.inserting_after(part):
        made = graph.call_function(torch.ops.aten.clone.default, (part,))
    made.meta = dict(part.meta)
    part.replace_all_uses_with(made, delete_user_cb=lambda user: user is not made)
