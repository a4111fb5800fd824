"""What users call the parameters and buffers that a graph takes: `model.norm.weight`.

Dynamo names an input after the expression it comes from, with every sign made an underscore, and
keeps the expression beside it. The inputs of a body (gradient checkpointing has one for each layer)
lack that, but hold the same fake tensor as the graph's own. `note` writes the user's name into the
metadata of both; `name` reads it. Other inputs keep the graph's name.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import fx

from tile_backend.lowering import provenance

KEY = "tilegym_name"


def note(module: fx.GraphModule, prefix: str = "") -> None:
    """prefix: path of the module whose function this is, where that is not the compiled one."""
    known: dict[int, str] = {}
    for node, fake in tensors(module):
        source = getattr(node.meta.get("grapharg"), "source", None)
        if found := provenance.tensor_path(str(getattr(source, "name", "")), prefix):
            node.meta[KEY] = known[id(fake)] = found
    for body in module.modules():
        if isinstance(body, fx.GraphModule) and body is not module:
            for node, fake in tensors(body):
                if id(fake) in known:
                    node.meta[KEY] = known[id(fake)]


def tensors(module: fx.GraphModule) -> Iterator[tuple[fx.Node, torch.Tensor]]:
    """The inputs that are tensors, each with its fake value."""
    for node in module.graph.find_nodes(op="placeholder"):
        fake = node.meta.get("example_value")
        if isinstance(fake, torch.Tensor):
            yield node, fake


def name(node: fx.Node) -> str:
    """`model.norm.weight` for a parameter that `note` has seen, else the node's own name."""
    return str(node.meta.get(KEY, node.name))
