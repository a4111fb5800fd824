"""Hand-written attention read node by node, as a matcher that looks at single nodes sees it.

Canonical terms say what attention means; these functions say how it is spelled: which permutation
is the last one of an operand, over which dimension the softmax runs, what the mask is filled with.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from tile_backend.lowering import in_place
from tile_backend.lowering import vocabulary_layout as layout
from tile_backend.lowering import vocabulary_nn as nn
from tile_backend.lowering import vocabulary_pointwise as pointwise
from tile_backend.lowering.node import value
from tile_backend.lowering.vocabulary import FUNCTIONS, METHODS, Word
from tile_backend.lowering.writes import flat

EXP, SUM, SUB, ADD, MUL, DIV = (METHODS[n] for n in ("exp", "sum", "sub", "add", "mul", "div"))
LOOKED_THROUGH = frozenset(
    (layout.same_values, pointwise.to_named, pointwise.type_as, pointwise.to_any, nn.dropout)
)
PERMUTATIONS = frozenset(
    (layout.permute, layout.movedim, layout.transpose, layout.transposed, layout.attribute)
)
LONGEST = 8
"""Steps from a softmax back to the product: scale, mask, cap and casts."""


def meaning(node: Any) -> Word | None:
    """The word of the vocabulary that a call is, in place or not; None for anything else."""
    if not isinstance(node, fx.Node):
        return None
    if node.op == "call_method":
        name = str(node.target)
        return METHODS.get(name) or METHODS.get(name.removesuffix("_"))
    known = in_place.OPERATORS.get(node.target, node.target)
    return FUNCTIONS.get(known) if node.op == "call_function" else None


def operand(node: fx.Node, index: int, name: str) -> Any:
    """An operand, past casts, copies and dropout."""
    found: Any = node.args[index] if len(node.args) > index else node.kwargs.get(name)
    while meaning(found) in LOOKED_THROUGH:
        found = found.args[0] if found.args else found.kwargs.get("input")
    return found


def permutation(node: Any) -> tuple[int, ...] | None:
    """The dimensions of a permutation of a tensor of rank 3 or more, none negative."""
    word = meaning(node)
    rank = value(node).dim() if word in PERMUTATIONS else 0
    if rank < 3:
        return None
    given: Any = node.args[1:] or tuple(v for k, v in node.kwargs.items() if k != "input")
    dims = list(range(rank))
    if word is layout.transposed or given in (("mT",), ("mH",)):
        return (*dims[:-2], rank - 1, rank - 2)
    if not all(type(d) is int for d in flat(given)):
        return None
    wanted = [d % rank for d in flat(given)]
    if word is layout.permute:
        return tuple(wanted) if len(wanted) == rank else None
    if len(wanted) != 2:
        return None
    first, second = wanted
    if word is layout.transpose:
        dims[first], dims[second] = second, first
    else:
        dims.insert(second, dims.pop(first))
    return tuple(dims)


def swaps_last(dims: tuple[int, ...]) -> bool:
    rank = len(dims)
    return dims == (*range(rank - 2), rank - 1, rank - 2)


def softmax_of(weights: Any) -> tuple[Any, Any] | None:
    """(scores, dimension or dimensions) of a softmax, also of exp(x - max) / sum; None if none."""
    if meaning(weights) is nn.softmax:
        dim = weights.args[1] if len(weights.args) > 1 else weights.kwargs.get("dim")
        return operand(weights, 0, "input"), dim
    if meaning(weights) is not DIV:
        return None
    raised, total = operand(weights, 0, "input"), operand(weights, 1, "other")
    if meaning(raised) is not EXP or meaning(total) is not SUM:
        return None
    scores = operand(raised, 0, "input")
    if meaning(scores) is SUB:
        scores = operand(scores, 0, "input")
    return scores, total.args[1] if len(total.args) > 1 else total.kwargs.get("dim")


def is_last(dim: Any, rank: int) -> bool:
    found = flat(dim)
    return len(found) == 1 and type(found[0]) is int and found[0] % rank == rank - 1


def product_behind(scores: Any, steps: int = LONGEST) -> tuple[fx.Node, list[Any]] | None:
    """(q @ k, the fills of the masks between it and the scores); None where no product is found."""
    word = meaning(scores)
    if word is nn.matmul:
        return scores, []
    if steps == 0:
        return None
    sources: list[tuple[Any, list[Any]]]
    if word in (pointwise.where, pointwise.where_method):
        condition = 0 if word is pointwise.where else 1
        a, b = (operand(scores, i, "") for i in range(3) if i != condition)
        sources = [(a, [b]), (b, [a])]
    elif word is pointwise.masked_fill:
        fill = scores.args[2] if len(scores.args) > 2 else scores.kwargs.get("value")
        sources = [(operand(scores, 0, "input"), [fill])]
    elif word in (ADD, SUB, MUL, DIV):
        sources = [(operand(scores, 0, "input"), []), (operand(scores, 1, "other"), [])]
    else:
        return None
    for source, fills in sources:
        found = product_behind(source, steps - 1)
        if found is not None:
            return found[0], [*fills, *found[1]]
    return None


def constant(fill: Any) -> float | None:
    """The number behind a fill: a literal, or a tensor made of one; None if it is not known."""
    if isinstance(fill, fx.Node) and fill.target in (torch.full, torch.tensor, "new_full"):
        known = fill.args[-1] if fill.args else fill.kwargs.get("fill_value")
        fill = fill.kwargs.get("fill_value", known)
    return float(fill) if isinstance(fill, (int, float)) else None


def unscaled(node: Any) -> Any:
    """A value before it was multiplied or divided by a number."""
    while meaning(node) in (MUL, DIV) and len(node.all_input_nodes) == 1:
        node = operand(node, 0, "input") if isinstance(node.args[0], fx.Node) else node.args[1]
    return node


assert operator.mul in FUNCTIONS, "the vocabulary is registered before it is read"
