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

POLICIES = ("recompute", "ac_graph_id", "ac_subgraph_index")
"""What torch notes of a node inside a checkpoint."""


def keep_apart(graph: fx.Graph) -> None:
    """Merge equal calls of ours as torch will, and put in the copies."""
    returned = {place for n in graph.output_node().all_input_nodes for place in storage(n)}
    ours = {overload for r in custom_op.records() for overload in (r.overload, r.interpreted)}
    numbers: dict[fx.Node, Hashable] = {}
    met: dict[Hashable, Hashable] = {}
    first: dict[Hashable, fx.Node] = {}
    for node in list(graph.nodes):
        numbers[node] = number(node, numbers, met)
        if node.target not in ours:
            continue
        origin = first.setdefault(numbers[node], node)
        if origin is node:
            continue
        for part in parts(node):
            if not returned.isdisjoint(storage(part)):
                part.replace_all_uses_with(same_part(graph, origin, part, returned))


def parts(node: fx.Node) -> list[fx.Node]:
    return [user for user in node.users if user.target is operator.getitem]


def same_part(graph: fx.Graph, origin: fx.Node, part: fx.Node, returned: set[Hashable]) -> fx.Node:
    """That result of the first of two equal calls, or a copy where it is returned as well.

    Of the first call, not of the second: torch takes what a later checkpoint reads of an earlier
    one for a boundary between the two, and a call with several results cannot be saved as one.
    """
    known = next((p for p in parts(origin) if p.args[1] == part.args[1]), None)
    if known is None:
        with graph.inserting_after(origin):
            known = graph.call_function(operator.getitem, (origin, part.args[1]))
        policies = {name: origin.meta[name] for name in POLICIES if name in origin.meta}
        known.meta = {**without_policies(part), **policies}
    if returned.isdisjoint(storage(known)) or storage(known) == storage(part):
        returned.update(storage(known))
        return known
    with graph.inserting_before(part):
        made = graph.call_function(torch.ops.aten.clone.default, (known,))
    made.meta = without_policies(part)
    return made


def without_policies(part: fx.Node) -> dict[str, Any]:
    """A copy that is returned is not made again, so it has none."""
    return {name: known for name, known in part.meta.items() if name not in POLICIES}


def number(
    node: fx.Node, numbers: dict[fx.Node, Hashable], met: dict[Hashable, Hashable]
) -> Hashable:
    """Equal for calls of one function with equal arguments."""
    if node.op != "call_function" or is_random(node.target):
        return node.name
    call = node.target, frozen(node.args, numbers), frozen(node.kwargs, numbers)
    return met.setdefault(call, node.name)


def is_random(target: Any) -> bool:
    tags = getattr(target, "tags", ())
    return torch.Tag.nondeterministic_seeded in tags


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
