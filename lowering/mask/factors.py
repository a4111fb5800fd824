"""A condition on query and key as a product of factors that have a name.

The condition is a conjunction of parts. A linear part is compared with the ranges of the indices,
0 <= q < rows and 0 <= k < columns: what always holds is dropped. What has no name is `Unexplained`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import sympy
from sympy.core.function import AppliedUndef
from sympy.logic.boolalg import Boolean

from tile_backend.lowering.node import Size

BATCH, HEAD, QUERY, KEY = (sympy.Symbol(n, integer=True, nonnegative=True) for n in "bhqk")


@dataclasses.dataclass(frozen=True)
class Factor:
    """What a query must fulfil to see a key. condition: the part of the mask's formula it names."""

    condition: Boolean

    def __str__(self) -> str:
        return type(self).__name__.lower()


@dataclasses.dataclass(frozen=True)
class Causal(Factor):
    """k <= q + offset."""

    offset: sympy.Expr

    def __str__(self) -> str:
        return "causal" if self.offset == 0 else f"causal({self.offset})"


@dataclasses.dataclass(frozen=True)
class Window(Factor):
    """q - k < size: a query sees itself and the size - 1 keys before it."""

    size: sympy.Expr

    def __str__(self) -> str:
        return f"window({self.size})"


@dataclasses.dataclass(frozen=True)
class Chunk(Factor):
    """q // size == k // size."""

    size: sympy.Expr

    def __str__(self) -> str:
        return f"chunk({self.size})"


@dataclasses.dataclass(frozen=True)
class Segments(Factor):
    """ids[b, q] == ids[b, k]. ids: the name of the node that computes them."""

    ids: str


@dataclasses.dataclass(frozen=True)
class Padding(Factor):
    """A condition on key and batch entry alone, read from tensors."""


@dataclasses.dataclass(frozen=True)
class Unexplained(Factor):
    """Anything else."""


def factors(condition: Boolean, rows: Size, columns: Size) -> tuple[Factor, ...]:
    """() where every query sees every key. rows, columns: numbers of queries and of keys."""
    found: dict[Factor, None] = {}
    for part in parts(condition):
        named = linear(part, rows, columns)
        if named is None:
            named = read(part, rows, columns) or Unexplained(part)
        if part != sympy.true and named != ALWAYS:
            found[named] = None
    return tuple(sorted(found, key=lambda factor: ORDER.index(type(factor))))


def chunk(part: Boolean, share: sympy.Expr, rows: Size, columns: Size) -> Factor | None:
    """share: the query over the size of a chunk; a first chunk that holds all is no condition."""
    size = 1 / share.coeff(QUERY, 1)
    if share != QUERY / size:
        return None
    if all(sympy.expand(n - size).is_nonpositive for n in (rows, columns)):
        return ALWAYS
    return Chunk(part, size)


ALWAYS = Factor(sympy.true)
ORDER = (Factor, Causal, Window, Chunk, Segments, Padding, Unexplained)


def parts(condition: Boolean) -> Iterator[Boolean]:
    """The conjuncts, negations moved inwards."""
    for part in sympy.And.make_args(condition):
        if isinstance(part, sympy.Not) and isinstance(part.args[0], sympy.Or):
            for inner in part.args[0].args:
                yield from parts(sympy.Not(inner))
        elif isinstance(part, sympy.And):
            yield from parts(part)
        else:
            yield part


def linear(part: Boolean, rows: Size, columns: Size) -> Factor | None:
    """A comparison that is linear in q and k; None for anything else."""
    difference = below_zero(part)
    if difference is None:
        return None
    q, k = (difference.coeff(index) for index in (QUERY, KEY))
    rest = sympy.expand(difference - q * QUERY - k * KEY)
    if {QUERY, KEY} & rest.free_symbols or not (q.is_Integer and k.is_Integer):
        return None
    largest = rest + sum(c * (n - 1) for c, n in ((q, rows), (k, columns)) if c > 0)
    if sympy.expand(largest).is_nonpositive:
        return ALWAYS
    if (q, k) == (-1, 1):
        return Causal(part, sympy.expand(-rest))
    if (q, k) == (1, -1):
        return Window(part, sympy.expand(1 - rest))
    return None


def below_zero(part: Boolean) -> sympy.Expr | None:
    """d where the part says d <= 0 of an integer d; None for anything else."""
    if not isinstance(part, (sympy.Le, sympy.Lt, sympy.Ge, sympy.Gt)):
        return None
    difference = sympy.expand(part.lhs - part.rhs)
    if isinstance(part, (sympy.Ge, sympy.Gt)):
        difference = -difference
    if isinstance(part, (sympy.Lt, sympy.Gt)):
        difference = difference + 1
    return sympy.expand(difference) if difference.is_integer else None


def read(part: Boolean, rows: Size, columns: Size) -> Factor | None:
    """A chunk, packed segments, or a condition on the key alone."""
    if isinstance(part, sympy.Eq):
        for one, other in (part.args, part.args[::-1]):
            if KEY in one.free_symbols or one.subs(QUERY, KEY) != other:
                continue
            if isinstance(one, sympy.floor) and (1 / one.args[0].coeff(QUERY, 1)).is_Integer:
                return chunk(part, one.args[0], rows, columns)
            if isinstance(one, AppliedUndef) and one.args[-1] == QUERY:
                return Segments(part, str(one.func))
    if KEY in part.free_symbols and QUERY not in part.free_symbols and part.atoms(AppliedUndef):
        return Padding(part)
    return None
