"""A size that is known at run time only, as a tensor: a position that a kernel reads.

As a number it would be another launch for each of its values.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Mapping
from typing import Any

import sympy
import torch

from tile_backend.lowering.effects import Effects
from tile_backend.lowering.mask.source import Source
from tile_backend.lowering.node import value

OPERATIONS: Mapping[str, Callable[[Any, Any], Any]] = {
    "Add": operator.add,
    "Mul": operator.mul,
    "Max": torch.sym_max,
    "Min": torch.sym_min,
}
"""By the name of what sympy, or torch's own classes for it, calls them."""


def as_tensor(size: sympy.Expr, effects: Effects, device: torch.device) -> Source | None:
    """Without dimensions, int64. None where the graph does not hold what the size is made of."""
    known = [
        (node, number.node.expr)
        for node in effects.position
        if isinstance(number := value(node), torch.SymInt)
    ]
    nodes = {symbol: node for node, symbol in reversed(known) if symbol in size.free_symbols}
    if not size.free_symbols <= nodes.keys() or not computable(size):
        return None
    symbols = tuple(nodes)

    def view(*numbers: Any) -> torch.Tensor:
        found = computed(size, dict(zip(symbols, numbers, strict=True)))
        return torch.full((), found, dtype=torch.int64, device=device)

    first, *others = (nodes[symbol] for symbol in symbols)
    return Source(first, view, others=tuple(others))


def computable(size: sympy.Expr) -> bool:
    if size.is_Integer or size.is_Symbol:
        return True
    return type(size).__name__ in OPERATIONS and all(computable(part) for part in size.args)


def computed(size: sympy.Expr, numbers: Mapping[sympy.Symbol, Any]) -> Any:
    """On the numbers that stand for the symbols: sizes, or proxies of them."""
    if size.is_Integer:
        return int(size)
    if size.is_Symbol:
        return numbers[size]
    parts = (computed(part, numbers) for part in size.args)
    return functools.reduce(OPERATIONS[type(size).__name__], parts)
