"""The calls of higher-order ops that a graph makes, and what each gives to the bodies it runs.

A body is a graph of its own, whose inputs are operands of the call: gradient checkpointing makes
one of each layer, torch.cond one of each branch. One body may be called from several places. Of an
op that is not listed here nothing is known, but which bodies it has.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import fx

from tile_backend.lowering.node import shape, value


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Where a higher-order op has its operands.

    given:    what it passes on as it is, in the order of a body's inputs.
    extended: (arguments of the call, further operands) -> arguments that pass on these as well,
              behind the others; None where that is not done.
    once:     these are all inputs of a body. Else they are the last ones, and the others change
              from step to step.
    """

    given: Callable[[Sequence[Any]], Sequence[Any]]
    extended: Callable[[Sequence[Any], Sequence[fx.Node]], tuple[Any, ...]] | None = None
    once: bool = True


def from_place(first: int) -> Arguments:
    """Op(..., *operands), from the argument at this place on."""
    return Arguments(lambda args: args[first:], lambda args, more: (*args, *more))


def in_last(args: Sequence[Any], more: Sequence[fx.Node]) -> tuple[Any, ...]:
    """Op(..., (*operands,))."""
    return (*args[:-1], (*args[-1], *more))


OPERANDS: Mapping[str, Arguments] = {
    "tag_activation_checkpoint": from_place(1),
    "wrap_activation_checkpoint": from_place(1),
    "wrap": from_place(1),
    "wrap_with_set_grad_enabled": from_place(2),
    "wrap_with_autocast": from_place(5),
    "invoke_subgraph": from_place(2),
    "cond": Arguments(lambda args: args[-1], in_last),
    "while_loop": Arguments(lambda args: args[-1], once=False),
    "scan": Arguments(lambda args: args[-1], once=False),
    "associative_scan": Arguments(lambda args: args[-1], once=False),
    "map_impl": Arguments(lambda args: args[-1], once=False),
}
READS_ONLY = frozenset(("flex_attention",))
"""Ops without a write of any kind, whatever their bodies are."""


def is_call(node: fx.Node) -> bool:
    """Whether the node calls a higher-order op."""
    is_body = isinstance(node.target, torch._ops.HigherOrderOperator)
    return node.op == "call_function" and is_body


def name(call: fx.Node) -> str:
    return str(call.target.name()) if isinstance(call.target, torch._ops.OperatorBase) else ""


def bodies_of(call: fx.Node) -> list[fx.GraphModule]:
    """The bodies that a call is given, in whatever place."""
    found = (held(argument) for argument in call.all_input_nodes)
    return [body for body in found if body is not None]


def held(node: fx.Node) -> fx.GraphModule | None:
    """The body that a get_attr node stands for."""
    found: object = node.graph.owning_module
    for part in str(node.target).split(".") if node.op == "get_attr" else ():
        found = getattr(found, part, None)
    return found if node.op == "get_attr" and isinstance(found, fx.GraphModule) else None


def inputs(body: fx.GraphModule) -> list[fx.Node]:
    return list(body.graph.find_nodes(op="placeholder"))


@dataclasses.dataclass(frozen=True)
class Entry:
    """One call of a body. operands: what it gives for the body's inputs, as far as that is known.

    Values that are no nodes are left out, and so are inputs of another shape than their operand.
    """

    call: fx.Node
    body: fx.GraphModule
    operands: Mapping[fx.Node, fx.Node]


def entries(call: fx.Node) -> Iterator[Entry]:
    """How a call enters each of its bodies."""
    known = OPERANDS.get(name(call))
    for body in bodies_of(call):
        if known is None:
            yield Entry(call, body, {})
            continue
        places, given = inputs(body), list(known.given(call.args))
        if known.once and len(places) != len(given):
            yield Entry(call, body, {})
            continue
        pairs = list(zip(reversed(places), reversed(given), strict=False))
        yield Entry(call, body, {p: g for p, g in pairs if isinstance(g, fx.Node) and fits(p, g)})


def fits(place: fx.Node, operand: fx.Node) -> bool:
    """Whether the input's fake value says of the operand what is true of it."""
    inner, outer = value(place), value(operand)
    if not isinstance(inner, torch.Tensor) or not isinstance(outer, torch.Tensor):
        return False
    return inner.dtype is outer.dtype and shape(inner) == shape(outer)
