"""Unification of a pattern's terms with a graph's: does this value have the fusion's form?

A match binds every hole to a term and every scalar to a number, and remembers the equations between
sizes that the pattern's attributes state; they are checked once all holes are bound. Nothing here
looks at who else uses a value: that is legality.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import sympy
import torch

from tile_backend.lowering import failure
from tile_backend.lowering.canonical_ops import OPERATIONS
from tile_backend.lowering.fusion import Fusion, Tensor
from tile_backend.lowering.identities import LOW_PRECISION
from tile_backend.lowering.identities_layout import full_permutation, permute
from tile_backend.lowering.match_sizes import disagreement
from tile_backend.lowering.node import Size
from tile_backend.lowering.terms import Term, TermTable, close, number_of, realisable
from tile_backend.lowering.trace import LOW, Pattern


@dataclasses.dataclass
class Binding:
    """What a partial match has found so far. Copied at each choice between operand orders."""

    terms: dict[Term, Term] = dataclasses.field(default_factory=dict)
    """Pattern term -> graph term, holes included."""
    scalars: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Scalar hole -> float, sympy expression or SymbolicNumber."""
    sizes: list[tuple[sympy.Expr, Size]] = dataclasses.field(default_factory=list)
    low: torch.dtype | None = None
    table: TermTable = dataclasses.field(default_factory=TermTable)
    """Of the graph: where operands that no node holds are made."""

    def copy(self) -> Binding:
        return Binding(dict(self.terms), dict(self.scalars), list(self.sizes), self.low, self.table)


Goals = tuple[tuple[Term, Term], ...]
"""Pairs of a pattern term and the term that it has to be."""
Accepts = Callable[[Binding], bool]


@dataclasses.dataclass(frozen=True)
class Match:
    """A pattern found in a graph.

    roots:    graph terms of the pattern's results.
    operands: hole name -> graph term.
    scalars:  scalar name -> float, sympy expression or SymbolicNumber.
    """

    pattern: Pattern
    roots: tuple[Term, ...]
    operands: Mapping[str, Term]
    scalars: Mapping[str, Any]
    view: tuple[int, ...] = ()
    """The graph holds the main result only permuted like this (an einsum's output order)."""

    @property
    def fusion(self) -> Fusion:
        return self.pattern.fusion


class Matcher:
    """The patterns of some fusions, indexed by the operation at their root."""

    def __init__(self, patterns: Iterable[Pattern]) -> None:
        self.patterns = tuple(patterns)
        self.by_root: dict[str, list[Pattern]] = {}
        for pattern in self.patterns:
            self.by_root.setdefault(pattern.roots[0].op, []).append(pattern)
        self.needs = {p: frozenset(below_root(p.roots[0])) for p in self.patterns}

    def matches(self, term: Term, table: TermTable) -> list[Match]:
        """Every pattern whose main result is this term of the table."""
        found = []
        below = below_root(term)
        for pattern in self.by_root.get(term.op, ()):
            if self.needs[pattern] <= below:
                what = f"matching {pattern.fusion.name}"
                found.append(failure.instead(None, what, term.node, match_of, pattern, term, table))
        return [match for match in found if match is not None]


def match_of(pattern: Pattern, term: Term, table: TermTable) -> Match | None:
    """The pattern with this term as its main result."""
    whole = functools.partial(fits, pattern)
    binding = solve(((pattern.roots[0], term),), Binding(table=table), pattern, whole)
    return None if binding is None else finished(pattern, binding)


def below_root(root: Term) -> set[str]:
    """The operations of a term's operands, and one level further down as "operand/its operand"."""
    found: set[str] = set()
    for operand in root.args:
        if own := names(operand):
            found |= own
            found |= {f"{operand.op}/{name}" for inner in operand.args for name in names(inner)}
    return found


def names(term: Term) -> set[str]:
    """What a term can be asked to be. Holes say nothing, and neither does a permutation of one,
    which any value unifies with. What was cast before it was moved is a cast as well (moved_cast).
    """
    held = term.args[0] if term.op == "permute" else term
    if OPERATIONS[held.op].free:
        return set()
    return {term.op} if term.cast_of is None else {term.op, "cast"}


def unify(wanted: Term, term: Term, binding: Binding, pattern: Pattern) -> bool:
    """Extend the binding so that the pattern term is this term; False leaves it unusable."""
    found = solve(((wanted, term),), binding, pattern, lambda _: True)
    if found is not None:
        binding.__dict__.update(found.__dict__)
    return found is not None


def solve(goals: Goals, binding: Binding, pattern: Pattern, accept: Accepts) -> Binding | None:
    """The first binding that satisfies every goal and `accept`.

    Operands of sums and products are tried in both orders, each with all that is still to do: only
    that tells which factor of `a * b + rotate(a) * c` is x.
    """
    while goals:
        (wanted, term), goals = goals[0], goals[1:]
        if wanted in binding.terms:
            if binding.terms[wanted] is not term:
                return None
            continue
        parts = step(wanted, term, binding, pattern)
        if parts is None:
            return None
        if wanted.dtype is not None:
            binding.terms[wanted] = term
        if OPERATIONS[wanted.op].commutes:
            (p, x), (q, y) = parts
            for order in (parts, ((p, y), (q, x))):
                found = solve((*order, *goals), binding.copy(), pattern, accept)
                if found is not None:
                    return found
            return None
        goals = (*parts, *goals)
    return binding if accept(binding) else None


def step(wanted: Term, term: Term, binding: Binding, pattern: Pattern) -> Goals | None:
    """What remains to be shown for the operands, or None where the operations differ."""
    if wanted.op == "hole":
        return () if hole_accepts(wanted, term, binding, pattern) else None
    if wanted.dtype is None:
        return () if unify_number(wanted, term, binding) else None
    if wanted.op == "permute" and wanted.args[0].op == "hole":
        return permuted_hole(wanted, term, binding)
    if wanted.op == "cast" and term.op != "cast":
        return moved_cast(wanted, term, binding)
    if wanted.op != term.op or len(wanted.args) != len(term.args):
        return None
    if not unify_attributes(wanted.attrs, term.attrs, binding):
        return None
    return tuple(zip(wanted.args, term.args, strict=True))


def permuted_hole(wanted: Term, term: Term, binding: Binding) -> Goals | None:
    """permute(hole) is any value: the hole is then that value permuted back, a view."""
    (hole,) = wanted.args
    if term.rank < len(wanted.attrs):
        return None
    dims = full_permutation(wanted.attrs, term.rank)
    inverse = tuple(dims.index(d) - term.rank for d in range(-term.rank, 0))
    source = term.args[0] if term.op == "permute" and term.attrs == wanted.attrs else None
    return ((hole, source or permute(binding.table, term, inverse)),)


def moved_cast(wanted: Term, term: Term, binding: Binding) -> Goals | None:
    """cast(hole) is also a value into which a cast was moved: the hole is what was cast."""
    (hole,) = wanted.args
    if hole.op != "hole" or term.cast_of is None or term.dtype is None:
        return None
    if not unify_attributes(wanted.attrs, (term.dtype,), binding):
        return None
    return ((hole, term.cast_of),)


def unify_attributes(wanted: tuple[Any, ...], given: tuple[Any, ...], binding: Binding) -> bool:
    if len(wanted) != len(given):
        return False
    for expected, actual in zip(wanted, given, strict=True):
        if isinstance(expected, sympy.Expr):
            if not isinstance(actual, (int, sympy.Expr)):
                return False
            binding.sizes.append((expected, actual))
        elif isinstance(expected, torch.dtype):
            if not same_dtype(expected, actual, binding):
                return False
        elif expected != actual:
            return False
    return True


def same_dtype(expected: torch.dtype, actual: Any, binding: Binding) -> bool:
    """The pattern's LOW stands for one low-precision dtype, the same everywhere in a match."""
    if expected is not LOW:
        return expected is actual
    if actual not in LOW_PRECISION or binding.low not in (None, actual):
        return False
    binding.low = actual
    return True


def hole_accepts(hole: Term, term: Term, binding: Binding, pattern: Pattern) -> bool:
    declared = pattern.fusion.holes[hole.attrs[0]]
    assert isinstance(declared, Tensor)
    if term.dtype is None or hole.dtype is None or not realisable(term):
        return False
    if declared.dtype == "any" and term.dtype is torch.bool:
        return True
    if not same_dtype(hole.dtype, term.dtype, binding):
        return False
    names = declared.dims.split()
    if declared.dtype in ("any", "bool"):
        return True
    if names[0] == "..." or declared.any_rank:
        return term.rank >= len([n for n in names if n != "..."])
    return term.rank == len(names)


def unify_number(wanted: Term, term: Term, binding: Binding) -> bool:
    if term.op != "number":
        return False
    if wanted.op == "number":
        if isinstance(wanted.attrs[1], str):
            return bool(wanted.attrs == term.attrs)
        expected, actual = number_of(wanted), number_of(term)
        return expected is not None and actual is not None and close(expected, actual)
    name, power = wanted.attrs
    value = term.attrs[1]
    number = number_of(term)
    if power == -1:
        if not number:
            return False
        value = number = 1.0 / number
    bound = binding.scalars.get(name)
    if bound is not None:
        return (
            bound is value
            or (isinstance(bound, str) and bound == value)
            or (isinstance(bound, float) and number is not None and close(bound, number))
        )
    binding.scalars[name] = value if number is None else number
    return True


def fits(pattern: Pattern, binding: Binding) -> bool:
    """Every hole is bound, and the sizes that attributes and holes state agree."""
    bound = operands_of(pattern, binding)
    if len(bound) < len(pattern.holes):
        return False
    return disagreement(pattern, bound, binding.sizes) is None


def finished(pattern: Pattern, binding: Binding) -> Match:
    roots = tuple(binding.terms[root] for root in pattern.roots)
    return Match(pattern, roots, operands_of(pattern, binding), dict(binding.scalars))


def operands_of(pattern: Pattern, binding: Binding) -> dict[str, Term]:
    holes = pattern.holes.items()
    return {name: binding.terms[hole] for name, hole in holes if hole in binding.terms}
