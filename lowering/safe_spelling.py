"""Attention left to Inductor, spelled so that Inductor's own attention patterns read it right.

torch 2.13's `fuse_attention` compares no constants: it takes any permutation of the key for a swap
of its last two dimensions, so `q @ k.permute(0, 2, 3, 1)` comes out wrong, or does not compile
(pytorch#195320). Written as a permutation followed by that swap, the same view is read as what it
is. No value, stride or gradient changes.
"""

from __future__ import annotations

from typing import Any

from torch import fx

from tile_backend.lowering.effects import flat
from tile_backend.lowering.node import value
from tile_backend.lowering.rewrite import KEPT_META
from tile_backend.lowering.vocabulary import FUNCTIONS, METHODS
from tile_backend.lowering.vocabulary_layout import movedim, permute
from tile_backend.lowering.vocabulary_nn import matmul

LOOKED_THROUGH = ("contiguous", "to", "float", "half", "bfloat16", "type_as")


def respell(graph: fx.Graph) -> int:
    """Rewrite every permuted right operand of a matrix product; returns how many there were."""
    found = 0
    for node in list(graph.nodes):
        right = right_operand(node)
        dims = right and permutation(right)
        if right is not None and dims and dims[-2] > dims[-1] and not only_swaps_last(dims):
            split(graph, right, dims)
            found += 1
    return found


def right_operand(node: fx.Node) -> fx.Node | None:
    """The permuted node behind the second operand of a product, past casts and copies."""
    known: Any = METHODS if node.op == "call_method" else FUNCTIONS
    if not node.op.startswith("call_") or known.get(node.target) is not matmul:
        return None
    operand = node.args[1] if len(node.args) > 1 else node.kwargs.get("other")
    while isinstance(operand, fx.Node) and operand.target in LOOKED_THROUGH and operand.args:
        operand = operand.args[0]
    return operand if isinstance(operand, fx.Node) else None


def permutation(node: fx.Node) -> tuple[int, ...] | None:
    """The dimensions of a permute or movedim of a tensor of rank 3 or more, none negative."""
    known: Any = METHODS if node.op == "call_method" else FUNCTIONS
    meaning = known.get(node.target) if node.op.startswith("call_") else None
    rank = value(node).dim() if meaning in (permute, movedim) else 0
    given: Any = node.args[1:] or tuple(node.kwargs.values())
    if rank < 3 or not all(type(d) is int for d in flat(given)):
        return None
    if meaning is permute:
        dims = tuple(d % rank for d in flat(given))
        return dims if len(dims) == rank else None
    if len(given) != 2 or len(flat(given)) != 2:
        return None
    start, end = (d % rank for d in flat(given))
    moved = [d for d in range(rank) if d != start]
    moved.insert(end, start)
    return tuple(moved)


def only_swaps_last(dims: tuple[int, ...]) -> bool:
    rank = len(dims)
    return dims == (*range(rank - 2), rank - 1, rank - 2)


def split(graph: fx.Graph, node: fx.Node, dims: tuple[int, ...]) -> None:
    """permute(x, d) = transpose(permute(x, d with the last two swapped), -2, -1)"""
    first = (*dims[:-2], dims[-1], dims[-2])
    with graph.inserting_before(node):
        inner = graph.call_method("permute", (node.args[0], *first))
        outer = graph.call_method("transpose", (inner, -2, -1))
    fake = value(node)
    inner.meta["example_value"] = fake.transpose(-2, -1)
    outer.meta["example_value"] = fake
    for made in (inner, outer):
        made.meta.update({key: node.meta[key] for key in KEPT_META if key in node.meta})
    node.replace_all_uses_with(outer)
    graph.erase_node(node)
