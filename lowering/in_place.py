"""In-place arithmetic on a value that nothing else can see, written as what it computes.

`scores += bias`, `scores.masked_fill_(mask, x)` and `F.silu(x, inplace=True)` hide a computation
behind a write. Where the storage was made in this graph and nothing else reads it afterwards, the
write is the same function with a result of its own: what AOTAutograd makes of it a moment later.
Every other write stays as it is, and stays a barrier.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx
from torch.multiprocessing.reductions import StorageWeakRef

from tile_backend.lowering import failure, shapes
from tile_backend.lowering.effects import (
    Effects,
    has_positional_inplace,
    is_opaque_call,
    storages,
    written,
)
from tile_backend.lowering.legality import fake_mode_of
from tile_backend.lowering.node import called_name, shape, value
from tile_backend.lowering.strides import same_layout
from tile_backend.lowering.uses import Uses, values_read

Function = Callable[..., Any]
OPERATORS: dict[Any, Function] = {
    operator.iadd: operator.add,
    operator.isub: operator.sub,
    operator.imul: operator.mul,
    operator.itruediv: operator.truediv,
}
METHODS = {f"{name}_": name for name in ("add", "sub", "mul", "div", "masked_fill", "relu")}
"""None of these is an op that autocast would run in another dtype out of place."""

FLAGGED: dict[Any, Function] = {function: function for function in (F.relu, F.silu)}
"""These take inplace=True."""

Sharing = dict[StorageWeakRef, list[fx.Node]]
"""The nodes whose value lies in a storage, in graph order."""


def functionalise(module: fx.GraphModule) -> int:
    """Write out every private in-place call; returns how many there were."""
    effects = Effects(module.graph)
    candidates = [node for node in effects.barriers if out_of_place(node) is not None]
    if not candidates or effects.memory_moves:
        return 0
    unneeded = set(effects.position) - Uses(effects).needed
    sharing: dict[StorageWeakRef, list[fx.Node]] = {}
    for node in module.graph.nodes:
        for storage in set(storages(node)):
            sharing.setdefault(storage, []).append(node)
    found = 0
    for node in candidates:
        given = module.graph, node, effects, unneeded, sharing
        found += failure.instead(False, "writing it without the write", node, written_out, *given)
    module.recompile()
    return found


def written_out(
    graph: fx.Graph, node: fx.Node, effects: Effects, unneeded: set[fx.Node], sharing: Sharing
) -> bool:
    """Whether one node is replaced."""
    target = private_target(node, effects, unneeded, sharing)
    if target is None or not gives_the_same(node, target):
        return False
    replace(graph, node, target, effects, sharing)
    return True


def private_target(
    node: fx.Node, effects: Effects, unneeded: set[fx.Node], sharing: Sharing
) -> fx.Node | None:
    """The value that the node overwrites, if nothing else in its storage is read later.

    unneeded: who reads for nothing. Nodes that this pass has made are never among them.
    """
    targets = written(node)
    if len(targets) != 1 or node in effects.without_grad:
        return None
    (target,) = targets
    order = effects.position
    same = {n for storage in storages(target) for n in sharing[storage]}
    before = {n for n in same if order[n] < order[node]}
    if not before or any(not is_call(n) or is_opaque_call(n) for n in before):
        return None
    if any(called_name(n) == "_get_data_attr" for n in before):
        return (
            None  # a write to `x.data` moves no version: what a backward keeps of x is written to
        )
    if any(operand in before for operand in node.all_input_nodes if operand is not target):
        return None
    for old in before:
        later = (u for u in old.users if order[u] > order[node] and u not in unneeded)
        if old is not target and any(old in values_read(user) for user in later):
            return None
    return target


def is_call(node: fx.Node) -> bool:
    return node.op in ("call_function", "call_method")


def gives_the_same(node: fx.Node, target: fx.Node) -> bool:
    """Whether the function out of place returns the dtype, shape and layout of the node."""
    call = out_of_place(node)
    assert call is not None, "candidates have one"
    function, args, kwargs = call
    given, named = fx.node.map_arg((args, kwargs), value)
    with fake_mode_of([value(target)]), torch.no_grad():
        method = getattr(torch.Tensor, function) if isinstance(function, str) else function
        made = method(*given, **named)
    known = value(node)
    alike = made.dtype == known.dtype and shapes.equal(shape(made), shape(known))
    return alike and same_layout(known, made)


def replace(
    graph: fx.Graph, node: fx.Node, target: fx.Node, effects: Effects, sharing: Sharing
) -> None:
    """Nothing is read here that was not read before, so that no half of it is done alone."""
    call = out_of_place(node)
    assert call is not None, "candidates have one"
    function, args, kwargs = call
    with graph.inserting_before(node):
        new = graph.create_node(node.op, function, args, kwargs)
    # The fake keeps sharing its storage with the target's: a later write to the result is seen.
    new.meta = dict(node.meta)
    order = effects.position
    node.replace_all_uses_with(new, propagate_meta=False)
    target.replace_all_uses_with(
        new, delete_user_cb=lambda user: user is not new and order[user] > order[node]
    )
    graph.erase_node(node)
    order[new] = order.pop(node)
    for storage in storages(target):
        sharing[storage] = [new if n is node else n for n in sharing[storage]]


def out_of_place(node: fx.Node) -> tuple[str | Function, tuple[Any, ...], dict[str, Any]] | None:
    """Target, arguments and keyword arguments of the same function without the write."""
    kwargs = dict(node.kwargs)
    if node.op == "call_method":
        name = METHODS.get(str(node.target))
        return None if name is None else (name, node.args, kwargs)
    if node.target in OPERATORS:
        return OPERATORS[node.target], node.args, kwargs
    if node.target not in FLAGGED:
        return None
    args = node.args[:-1] if has_positional_inplace(node) else node.args
    kwargs.pop("inplace", None)
    return FLAGGED[node.target], args, kwargs
