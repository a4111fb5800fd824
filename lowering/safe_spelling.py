"""Attention left to Inductor, spelled so that Inductor's own attention patterns read it right.

torch's `fuse_attention` compares no constants (pytorch#195320). It takes any permutation of an
operand for the usual one, a softmax over any dimension for one over the keys, and any fill value
for minus infinity; then the result is wrong, or does not compile. Two remedies, neither of which
changes a value, a stride or a gradient:

- a key in one permutation is written as a permutation followed by the swap that the patterns know;
- where an operand, the softmax or the fill still differs from what they know, the weights are
  multiplied by one, which no pattern looks through and which fuses into the softmax's kernel.
"""

from __future__ import annotations

import math
import operator
from typing import Any

import torch
from torch import fx

from tile_backend.lowering import attention_path as path
from tile_backend.lowering import failure
from tile_backend.lowering import vocabulary_nn as nn
from tile_backend.lowering.node import value
from tile_backend.lowering.rewrite import KEPT_META

HEADS_FIRST = (0, 2, 1, 3)
"""The one permutation of query, key and value that the patterns contain."""

FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
FILLS = (-math.inf, *(torch.finfo(dtype).min for dtype in FLOATS))
"""What a mask is filled with in the patterns."""


def respell(graph: fx.Graph) -> int:
    """Rewrite what would be misread; returns how many nodes were respelled."""
    found = 0
    for node in list(graph.nodes):
        found += failure.instead(0, "respelling it for Inductor", node, respelled, graph, node)
    return found


def respelled(graph: fx.Graph, node: fx.Node) -> int:
    if path.meaning(node) is not nn.matmul or len(node.args) != 2:
        return 0
    return split_key(graph, node) + hide_weights(graph, node)


def split_key(graph: fx.Graph, product: fx.Node) -> bool:
    """permute(x, d) = transpose(permute(x, d with the last two swapped), -2, -1)"""
    node = path.operand(product, 1, "other")
    dims = path.permutation(node)
    if not dims or dims[-2] < dims[-1] or path.swaps_last(dims):
        return False
    first = (*dims[:-2], dims[-1], dims[-2])
    fake = value(node)
    swapped = fake.transpose(-2, -1)
    with graph.inserting_before(node):
        inner = graph.call_method("permute", (node.all_input_nodes[0], *first))
        outer = graph.call_method("transpose", (inner, -2, -1))
    keep(node, inner, swapped)
    keep(node, outer, fake)
    node.replace_all_uses_with(outer)
    graph.erase_node(node)
    return True


def hide_weights(graph: fx.Graph, product: fx.Node) -> bool:
    """Multiply the left operand by one if the patterns would misread the product's attention."""
    if not is_misread(product):
        return False
    left: Any = product.args[0]
    fake = value(left)
    with graph.inserting_before(product):
        hidden = graph.call_function(operator.mul, (left, 1.0))
    keep(product, hidden, fake)
    product.args = (hidden, product.args[1])
    return True


def is_misread(product: fx.Node) -> bool:
    weights = path.operand(product, 0, "input")
    softmax = path.softmax_of(weights)
    if softmax is None:
        return False
    scores, dim = softmax
    if not path.is_last(dim, value(weights).dim()):
        return True
    found = path.product_behind(scores)
    if found is None:
        return False
    inner, fills = found
    if any(path.constant(fill) not in FILLS for fill in fills):
        return True
    query, key = path.unscaled(path.operand(inner, 0, "input")), path.operand(inner, 1, "other")
    swapped = path.permutation(key)
    if swapped is not None and not path.swaps_last(swapped):
        return True
    before = path.unscaled(path.operand(key, 0, "input")) if swapped is not None else None
    return any(is_unknown(node) for node in (query, before, path.operand(product, 1, "other")))


def is_unknown(node: Any) -> bool:
    dims = path.permutation(node)
    return dims is not None and dims != HEADS_FIRST and dims != tuple(range(len(dims)))


def keep(old: fx.Node, new: fx.Node, fake: torch.Tensor) -> None:
    new.meta.update({key: old.meta[key] for key in KEPT_META if key in old.meta})
    new.meta["example_value"] = fake
