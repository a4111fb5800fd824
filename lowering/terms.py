"""Canonical terms: what a value *is*, independent of how its program spelled it.

A term is an operation over terms, interned: two nodes that compute the same value from the same
operands in the same region (see effects) have the identical Term object. Terms say nothing about
layout. Attributes are plain hashable values; dimensions are counted from the end, so that a term
fits tensors of any rank.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import sympy
import torch
from torch import fx

from tile_backend.lowering.canonical_ops import OPERATIONS
from tile_backend.lowering.node import Size

Attributes = tuple[Any, ...]


@dataclasses.dataclass(eq=False, slots=True)
class Term:
    """One value.

    op:     canonical name; "leaf" (a node not looked into), "number", or for patterns "hole",
            "scalar".
    args:   operand terms.
    attrs:  what else determines the value (dims, slice bounds, flags).
    dtype:  None for a number.
    shape:  ints or sympy expressions.
    node:   the first graph node with this value; None for a derived view or cast that the graph
            lacks.
    cast_of: a value that this is the cast of, where the identities have moved the cast inside; it
            may be one that the graph holds.
    """

    op: str
    args: tuple[Term, ...]
    attrs: Attributes
    dtype: torch.dtype | None
    shape: tuple[Size, ...]
    node: fx.Node | None = None
    cast_of: Term | None = None

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def made_of(self) -> tuple[Term, ...]:
        """What it is written down from where no node holds it: its operands, or what it is the
        cast of, where the graph holds that.
        """
        if self.cast_of is not None and self.cast_of.node is not None:
            return (self.cast_of,)
        return tuple(argument for argument in self.args if argument.dtype is not None)

    def __repr__(self) -> str:
        inner = ", ".join([*(repr(a) for a in self.args), *(str(a) for a in self.attrs)])
        return f"{self.op}({inner})"


@dataclasses.dataclass(frozen=True)
class SymbolicNumber:
    """A float that Dynamo made a graph input (`dynamic=True`): a node whose value is a SymFloat."""

    node: fx.Node


class NamedNumber(float):
    """A scalar hole of a pattern: a number that keeps its name when it turns up as an argument."""

    name: str

    def __new__(cls, name: str) -> NamedNumber:
        self = super().__new__(cls, 0.7310585786300049)
        self.name = name
        return self


class NamedInteger(int):
    """The same for a whole number."""

    name: str

    def __new__(cls, name: str) -> NamedInteger:
        self = super().__new__(cls, -7919)
        self.name = name
        return self


class NamedWord(str):
    """The same for a word. Its text is one that torch takes: the reduction of a loss."""

    name: str

    def __new__(cls, name: str) -> NamedWord:
        self = super().__new__(cls, "mean")
        self.name = name
        return self


NAMED = {float: NamedNumber, int: NamedInteger, str: NamedWord}
"""What stands for a scalar hole of each type."""


class TermTable:
    """Interns terms of one graph, or of one pattern."""

    def __init__(self) -> None:
        self._interned: dict[Any, Term] = {}
        self.region = 0
        """The region of terms made now; the canonicaliser sets it node by node."""

    def intern(
        self,
        op: str,
        args: tuple[Term, ...],
        attrs: Attributes,
        dtype: torch.dtype | None,
        shape: tuple[Size, ...],
    ) -> Term:
        key = (op, tuple(id(a) for a in args), attrs, dtype, self.region if args else 0)
        found = self._interned.get(key)
        if found is None:
            found = self._interned[key] = Term(op, args, attrs, dtype, shape)
        return found

    def leaf(
        self, node: fx.Node, dtype: torch.dtype, shape: tuple[Size, ...], version: int = 0
    ) -> Term:
        """version: how many writes to the node's value its reader finds (Effects.version)."""
        found = self.intern("leaf", (), (node, version), dtype, shape)
        found.node = node
        return found

    def written(self, term: Term, made_of: tuple[Term, ...]) -> Term:
        """The same value as one that no node holds, written down from these (see realise)."""
        key = ("written", term, *made_of)
        found = self._interned.get(key)
        if found is None:
            whole = (term.op, made_of, term.attrs)
            if term.made_of == (term.cast_of,):
                whole = ("cast", made_of, (term.dtype,))
            found = self._interned[key] = Term(*whole, term.dtype, term.shape)
        return found

    def number(self, value: Any) -> Term:
        """A literal, a word, a size expression, a SymbolicNumber, or in a pattern a scalar hole.

        The term "scalar" has attributes (name, power): power -1 stands for the number's inverse.
        """
        if isinstance(value, (NamedNumber, NamedInteger, NamedWord)):
            return self.intern("scalar", (), (value.name, 1), None, ())
        if isinstance(value, bool):
            value = int(value)
        kind = type(value).__name__ if not isinstance(value, (int, float)) else "literal"
        return self.intern("number", (), (kind, value), None, ())


def realisable(term: Term) -> bool:
    """False for a value that only the identities made up, such as the reciprocal of a divisor."""
    return term.node is not None or can_be_written(term)


def can_be_written(term: Term) -> bool:
    """Whether a value can be had without a node that holds it: a view or a cast of other values."""
    cast = term.made_of == (term.cast_of,)
    return (cast or OPERATIONS[term.op].realised) and all(map(realisable, term.made_of))


def number_of(term: Term) -> float | None:
    """The literal's value, or None when the term is no literal number."""
    if term.op != "number":
        return None
    value = term.attrs[1]
    if isinstance(value, (int, float)):
        return float(value)
    if isinstance(value, sympy.Expr) and value.is_number:
        return float(value)
    return None


def close(a: float, b: float) -> bool:
    """Equal up to the rounding of a literal to float32: 1e-6 comes back as 9.9999999747e-07."""
    return a == b or abs(a - b) <= 1e-6 * max(abs(a), abs(b))
