"""Packed sequences that are told by their positions: within one, positions differ as indices do.

Transformers numbers the sequences of a row by `(diff(positions) != 1).cumsum(-1)`, and compares
positions, not indices: positions[k] <= positions[q]. Two places with one number have only steps of
one between them, so that there positions[k] - positions[q] is k - q.
"""

from __future__ import annotations

import operator
from typing import Any

import sympy
import torch
from sympy.core.function import AppliedUndef
from sympy.logic.boolalg import Boolean
from torch import fx

from tile_backend.lowering.mask.factors import KEY
from tile_backend.lowering.mask.reader import Reader
from tile_backend.lowering.node import shape, value

UNEQUAL = ("ne", "__ne__", torch.ne, operator.ne)


def by_index(condition: Boolean, reader: Reader) -> Boolean:
    """The condition with indices compared in the place of positions, where it is the same."""
    parts = list(sympy.And.make_args(condition))
    for part in parts:
        for one, other in (part.args, part.args[::-1]) if isinstance(part, sympy.Eq) else ():
            found = positions(one, other, reader)
            if found is None:
                continue
            of_query, of_key = found
            moved = {of_key: of_query + KEY - one.args[-1]}
            rest = (p if p is part else p.xreplace(moved) for p in parts)
            return sympy.And(*rest)
    return condition


def positions(one: Any, other: Any, reader: Reader) -> tuple[Any, AppliedUndef] | None:
    """Those behind the numbers of two sequences, at the query and at the key."""
    if not (isinstance(one, AppliedUndef) and isinstance(other, AppliedUndef)):
        return None
    if one.func != other.func or one.args[:-1] != other.args[:-1] or other.args[-1] != KEY:
        return None
    node = reader.reads[str(one.func)].node
    reader = reader.of(node)
    found = numbered(node, reader)
    if found is None or len(one.args) != value(found).dim():
        return None
    of_query, of_key = (reader.elements(found).at(read.args) for read in (one, other))
    return (of_query, of_key) if isinstance(of_key, AppliedUndef) else None


def numbered(node: fx.Node, reader: Reader) -> fx.Node | None:
    """The positions whose runs of steps of one the node numbers, along the last dimension.

    int64 throughout: narrower numbers might come round again.
    """
    unequal = source(node, ("cumsum", torch.cumsum), dim=1)
    differences = source(unequal, UNEQUAL)
    found = source(differences, ("diff", torch.diff), dim=2)
    if unequal is None or differences is None or found is None:
        return None
    ordered = differences.kwargs.get("n", differences.args[1:2] or 1) in (1, (1,))
    aligned = shape(value(differences)) == shape(value(found))  # something of size 1 is in front
    ahead = differences.kwargs.get("append") is None and len(differences.args) < 5
    wide = all(value(n).dtype is torch.int64 for n in (node, differences, found))
    written = {node, unequal, differences, found} & reader.effects.volatile
    step = unequal.args[1:] == (1,) and not unequal.kwargs
    return found if ordered and aligned and ahead and wide and step and not written else None


def source(node: Any, names: tuple[Any, ...], dim: int | None = None) -> fx.Node | None:
    """The first operand of a call of one of those names, along the last dimension.

    dim: the place of that argument.
    """
    if not isinstance(node, fx.Node) or node.target not in names or not node.args:
        return None
    found = node.args[0]
    if not isinstance(found, fx.Node) or not isinstance(value(found), torch.Tensor):
        return None
    if dim is not None:
        given = node.args[dim] if len(node.args) > dim else node.kwargs.get("dim", -1)
        if not isinstance(given, int) or given % value(found).dim() != value(found).dim() - 1:
            return None
    return found
