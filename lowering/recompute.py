"""Tells the partitioner which of our ops to run again in the backward, not to save their results.

Custom ops are saved by default. Ours are cheap to recompute, and their results as large as their
inputs, except where the reference contains a matrix product (attention), or where little comes of
much (the log-sum-exp of logits): those stay saved.

A view of an input that such an op reads is made again from the input, which costs nothing: torch
compares the version of a saved input, so that a write to it before the backward raises. A view that
is made in the graph has a version of its own, and would be read with the new values.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch.utils.checkpoint import CheckpointPolicy
from torch.utils.flop_counter import FlopCounterMode

from tile_backend.lowering import custom_op, failure, shape_check
from tile_backend.lowering.node import hint
from tile_backend.lowering.separate_results import storage

SMALLER = 4
"""So many times fewer elements: reading a tensor again costs more than keeping that little."""


def mark(graph: torch.fx.Graph) -> None:
    """Every node of a cheap op. A policy that somebody else set on a node is kept."""
    for record in custom_op.records():
        for overload in (record.overload, record.interpreted):
            for node in graph.find_nodes(op="call_function", target=overload):
                failure.instead(None, "finding views of inputs", None, mark_views, node)
        for node in graph.find_nodes(op="call_function", target=record.overload):
            what = f"weighing {record.op.name} in the backward"
            if failure.instead(False, what, None, _is_cheap, record, node):
                node.meta.setdefault("recompute", CheckpointPolicy.PREFER_RECOMPUTE)


def mark_views(call: torch.fx.Node) -> None:
    """What the op reads that is a view of an input."""
    for node in call.all_input_nodes:
        for view in views_of_input(node):
            view.meta.setdefault("recompute", CheckpointPolicy.MUST_RECOMPUTE)


def views_of_input(node: torch.fx.Node) -> list[torch.fx.Node]:
    """The nodes from this one down to an input of the graph that are its memory; else none."""
    found, place = [], storage(node)
    while node.op == "call_function" and place and node.all_input_nodes:
        found.append(node)
        node = node.all_input_nodes[0]
        if storage(node) != place:
            return []
    return found if node.op == "placeholder" else []


def made_again_from_inputs(record: custom_op.Record, node: torch.fx.Node) -> bool:
    """Whether its backward reads a result that would be made again from inputs of the graph.

    The result is what the original keeps. An input, as large as it is, may be written to before.
    """
    if record.op.gradient is None or not record.op.gradient.kept:
        return False
    results = node.meta.get("val")
    made = results if isinstance(results, (tuple, list)) else (results,)
    shapes = [tuple(r.shape) for r in made if isinstance(r, torch.Tensor)]
    inputs = [n for n in node.all_input_nodes if n.op == "placeholder" or views_of_input(n)]
    return any(tuple(n.meta["val"].shape) in shapes for n in inputs if "val" in n.meta)


def _is_cheap(record: custom_op.Record, node: torch.fx.Node) -> bool:
    if made_again_from_inputs(record, node):
        return False
    arguments = record.signature.bind(node.args, node.kwargs)
    values = {
        name: value.meta["val"] if isinstance(value, torch.fx.Node) else value
        for name, value in arguments.items()
    }
    if _shrinks(values.values(), node.meta.get("val")):
        return False
    return not _has_products(record, tuple(_example(v) for v in values.values()))


def _shrinks(values: Iterable[Any], results: Any) -> bool:
    """Whether the results are much smaller than what they are computed from. None: not known."""
    if results is None:
        return False
    made = results if isinstance(results, (tuple, list)) else (results,)
    read, written = (
        sum(math.prod(map(hint, t.shape)) for t in tensors if isinstance(t, torch.Tensor))
        for tensors in (values, made)
    )
    return SMALLER * written < read


def _example(value: Any) -> Any:
    """A dtype and sizes that run: whether there is a product does not depend on dynamic sizes."""
    if not isinstance(value, torch.Tensor):
        return value
    return value.dtype, tuple(hint(size) for size in value.shape)


@functools.cache
def _has_products(record: custom_op.Record, examples: tuple[Any, ...]) -> bool:
    arguments: Mapping[str, Any] = {
        name: torch.empty(example[1], dtype=example[0], device="meta")
        if is_tensor and example is not None
        else example
        for name, is_tensor, example in zip(
            record.signature.names, record.signature.is_tensor, examples, strict=True
        )
    }
    with FlopCounterMode(display=False) as counter:
        shape_check.on_meta(record.op, arguments)
    return bool(counter.get_total_flops() > 0)
