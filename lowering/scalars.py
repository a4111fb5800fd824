"""The numbers that a match bound, as its op takes them.

Under dynamic=True Dynamo makes a float such as epsilon an input of the graph, and the compiled code
serves every value of it. An op is called with numbers that are fixed, and to fix one of the
program's would be a guard: such a number is called open, and is known as it was at capture only.
"""

from __future__ import annotations

from typing import Any

import sympy

from tile_backend.lowering.fusion import Fusion, Scalar
from tile_backend.lowering.match import Match
from tile_backend.lowering.node import value
from tile_backend.lowering.reason import Reason, ReasonKind
from tile_backend.lowering.terms import SymbolicNumber


def scalars_of(match: Match) -> tuple[dict[str, Any], tuple[str, ...]] | Reason:
    """The numbers by name, and the names of those that are open."""
    found: dict[str, Any] = {}
    left_open = []
    for name, bound in match.scalars.items():
        known = settled(bound)
        if known is None:
            left_open.append(name)
            known = at_capture(bound)
        if known is None:
            return unknown(name, bound)
        found[name] = type_of(match.fusion, name)(known)
    return found, tuple(left_open)


def unknown(name: str, bound: Any) -> Reason:
    if not isinstance(bound, sympy.Expr):
        return Reason(ReasonKind.SCALAR_IS_TENSOR, f"{name} is not a number known at compile time")
    text = f"{name} is {bound}, which may change between calls"
    fix = "mark only the sizes that change as dynamic (torch._dynamo.mark_dynamic)"
    return Reason(ReasonKind.SHAPE_UNPROVABLE, text, fix=fix)


def type_of(fusion: Fusion, name: str) -> type:
    hole = fusion.holes[name]
    return hole.type if isinstance(hole, Scalar) else float


def settled(bound: Any) -> float | str | None:
    """As a float; None for a number that the compiled code leaves open. A word is itself."""
    if isinstance(bound, str):
        return bound
    if isinstance(bound, SymbolicNumber):
        bound = value(bound.node).node.expr
    if isinstance(bound, sympy.Expr):
        return float(bound) if bound.is_number else None
    return float(bound)


def at_capture(bound: Any) -> float | None:
    """What an open number was when the graph was captured; None where nobody knows."""
    if not isinstance(bound, SymbolicNumber):
        return None
    symbol = value(bound.node).node
    return float(symbol.hint) if symbol.has_hint() else None
