"""What an op keeps for its backward and the original does not: a copy, if users can write to it.

A function that trains has returned before its backward runs, and its caller may write to what it
was given, or got, in between (a cache, a buffer of masks). Then it counts which tensors wait for
the backward. Matrix products keep what they are given: the repeated keys and values of attention,
not those that a site reads in their place; and a mask that is added they never see. Elsewhere
Inductor computes again from the inputs, as an op of ours does, and torch raises for such a write.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import fx

from tile_backend.lowering import failure, meta
from tile_backend.lowering.canonical import CanonicalGraph
from tile_backend.lowering.effects import storages
from tile_backend.lowering.extent import Extent
from tile_backend.lowering.fusion import Fusion
from tile_backend.lowering.node import value


def needed(
    fusion: Fusion, extent: Extent, others: Iterable[fx.Node], canonical: CanonicalGraph
) -> frozenset[fx.Node]:
    """The operands that the op gets a copy of. others: what it reads beside them, for its mask."""
    products = any(op.flops is not None for op in fusion.ops)
    (reader, *more) = canonical.masks
    if not products or more or reader.outside is not None or not reader.trains:
        return frozenset()
    every = (*extent.operands, *others)
    read = [node for node in every if canonical.exposed.intersection(storages(node))]
    if not read:
        return frozenset()
    what = "asking what the original code keeps"
    known = failure.instead(set[fx.Node](), what, extent.roots[0], kept, extent)
    return frozenset(node for node in read if node not in known)


def kept(extent: Extent) -> set[fx.Node]:
    """The operands whose storage autograd keeps where the original code runs, on meta tensors."""
    values: dict[fx.Node, torch.Tensor] = {}
    for node in extent.elided:
        for read in node.all_input_nodes:
            if read not in extent.elided and isinstance(value(read), torch.Tensor):
                values[read] = leaf(value(read))
    places = {address(tensor): node for node, tensor in values.items()}
    found: set[fx.Node] = set()

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        found.update({places[address(tensor)]} if address(tensor) in places else ())
        return tensor

    with (
        meta.without_modes(),
        torch.enable_grad(),
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
    ):
        for node in extent.elided:
            values[node] = meta.call(node, values)
            for tensor in attended(node, values):
                pack(tensor)
    return found


def leaf(fake: torch.Tensor) -> torch.Tensor:
    made: torch.Tensor = meta.like(fake)
    return made.requires_grad_(fake.requires_grad)


def address(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def attended(node: fx.Node, values: dict[fx.Node, torch.Tensor]) -> Iterator[torch.Tensor]:
    """What a fused attention keeps: all that it is given. On meta tensors it is written out."""
    if node.target is F.scaled_dot_product_attention:
        yield from (values[read] for read in node.all_input_nodes if read in values)
