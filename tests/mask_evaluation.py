"""The formulas of masks at one index after the other, in whole numbers and fractions.

SymPy itself takes a hundred times as long to put numbers in place of symbols. What is not listed
here it still evaluates, one node at a time, from arguments that are numbers.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

import sympy
from sympy.core.function import AppliedUndef
from sympy.core.relational import Relational
from sympy.logic import boolalg

Element = Callable[[str, tuple[int, ...]], int]
"""(name of a tensor, indices) -> what it holds there."""
COMPARISONS: Mapping[Any, Callable[[Any, Any], bool]] = {
    sympy.Eq: operator.eq,
    sympy.Ne: operator.ne,
    sympy.Lt: operator.lt,
    sympy.Le: operator.le,
    sympy.Gt: operator.gt,
    sympy.Ge: operator.ge,
}
FUNCTIONS: Mapping[Any, Callable[..., Any]] = {
    sympy.Add: lambda *terms: sum(terms),
    sympy.Mul: lambda *factors: math.prod(factors),
    sympy.floor: math.floor,
    sympy.ceiling: math.ceil,
    sympy.Mod: operator.mod,
    sympy.Abs: abs,
    sympy.Max: max,
    sympy.Min: min,
    boolalg.Not: operator.not_,
    boolalg.Xor: lambda *parts: functools.reduce(operator.xor, parts),
    **COMPARISONS,
}


def evaluated(formula: Any, at: Mapping[Any, int], element: Element) -> Any:
    """The number or the truth of a formula. at: the value of each symbol."""

    def of(node: Any) -> Any:
        if node.is_Symbol:
            return at[node]
        if isinstance(node, boolalg.BooleanAtom):
            return bool(node)
        if node.is_Rational:
            return int(node) if node.is_Integer else Fraction(int(node.p), int(node.q))
        if isinstance(node, boolalg.And):
            return all(map(of, node.args))
        if isinstance(node, boolalg.Or):
            return any(map(of, node.args))
        if isinstance(node, boolalg.ITE):
            return of(node.args[1] if of(node.args[0]) else node.args[2])
        if isinstance(node, sympy.Piecewise):
            return next(of(value) for value, condition in node.args if of(condition))
        values = [of(argument) for argument in node.args]
        if isinstance(node, AppliedUndef):
            return element(str(node.func), tuple(map(int, values)))
        function = FUNCTIONS.get(node.func)
        return function(*values) if function else plain(node.func(*map(sympy.sympify, values)))

    return of(formula)


def plain(value: Any) -> Any:
    """A number or a truth value of SymPy as one of Python."""
    if isinstance(value, (boolalg.BooleanAtom, Relational)):
        return bool(value)
    assert value.is_Rational, f"{value} is no number"
    return int(value) if value.is_Integer else Fraction(int(value.p), int(value.q))
