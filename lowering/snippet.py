"""Some ops of a graph as a Python function that runs alone: text, and the layout of its inputs.

Made for what was not fused, so that a person can edit it until it is. Cheap enough for every
compile: no graph is copied, nothing is traced.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import fx

from tile_backend.lowering import input_names, provenance, python_text
from tile_backend.lowering.node import hint, spec, value


@dataclasses.dataclass(frozen=True)
class Snippet:
    """A function of `inputs`, in order of first use, with `statements` for a body.

    inputs:     name -> TensorSpec, or the number that was seen at capture.
    statements: text and "file.py:12", one for each op, in program order.
    results:    the names of the values that are used elsewhere.
    """

    inputs: Mapping[str, object]
    statements: tuple[tuple[str, str], ...]
    results: tuple[str, ...]


def snippet(nodes: Iterable[fx.Node], root: fx.Node) -> Snippet | None:
    """The nodes of one graph, in any order; None where some op or input cannot be written out."""
    inside = dict.fromkeys(sorted(nodes))
    if not all(python_text.runs(node) for node in inside):
        return None
    names: dict[fx.Node, str] = {node: python_text.identifier(node.name) for node in inside}
    inputs: dict[str, object] = {}
    for node in (source for reader in inside for source in reader.all_input_nodes):
        if node not in names:
            given = described(value(node))
            if given is None:
                return None
            names[node] = free(python_text.identifier(input_names.name(node)), inputs, names)
            inputs[names[node]] = given
    statements = tuple(
        (
            f"{names[node]} = {python_text.expression(node, names.__getitem__)}",
            provenance.source_line(node.meta),
        )
        for node in inside
    )
    seen = [node for node in inside if node is root or any(u not in inside for u in node.users)]
    return Snippet(inputs, statements, tuple(names[node] for node in seen))


def described(given: Any) -> object:
    """A tensor's layout, a number, or None."""
    if isinstance(given, torch.Tensor):
        return spec(given) if given.layout is torch.strided else None
    if isinstance(given, torch.SymInt):
        return hint(given)
    if isinstance(given, torch.SymFloat):
        return float(given.node.hint) if given.node.has_hint() else None
    return given if isinstance(given, (bool, int, float)) else None


def free(wanted: str, inputs: Mapping[str, object], names: Mapping[fx.Node, str]) -> str:
    """The name, with a number behind it where it is taken."""
    taken = {*inputs, *names.values(), "torch", "operator"}
    number, found = 1, wanted
    while found in taken:
        number, found = number + 1, f"{wanted}_{number}"
    return found
