"""How far from its own position a query sees: conditions that are linear in query and key.

Each is compared with the ranges of the indices, 0 <= q < rows and 0 <= k < columns. Bounds above
and below are named together, since one says at which offset the other is a window.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

import sympy
from sympy.core.function import AppliedUndef
from sympy.logic.boolalg import Boolean

from tile_backend.lowering.mask.factors import (
    KEY,
    QUERY,
    Ahead,
    Amount,
    Causal,
    Factor,
    Prefix,
    Unexplained,
    Window,
    amount,
)
from tile_backend.lowering.mask.moments import Read
from tile_backend.lowering.node import Size


@dataclasses.dataclass(frozen=True)
class Bound:
    """limit - (q * QUERY + k * KEY) >= 0. always: for all queries and keys that there are."""

    condition: Boolean
    q: int
    k: int
    limit: sympy.Expr
    always: bool

    @property
    def is_upper(self) -> bool:
        """k - q <= limit."""
        return (self.q, self.k) == (-1, 1)

    @property
    def is_lower(self) -> bool:
        """q - k <= limit."""
        return (self.q, self.k) == (1, -1)


def bound(part: Boolean, rows: Size, columns: Size) -> Bound | None:
    """None for what is not linear in q and k."""
    difference = below_zero(part)
    if difference is None:
        return None
    q, k = (difference.coeff(index) for index in (QUERY, KEY))
    rest = sympy.expand(difference - q * QUERY - k * KEY)
    if {QUERY, KEY} & rest.free_symbols or not (q.is_Integer and k.is_Integer):
        return None
    largest = rest + sum(c * (n - 1) for c, n in ((q, rows), (k, columns)) if c > 0)
    always = bool(sympy.expand(largest).is_nonpositive)
    if rows == 1 and q == 0:
        q = -k
    return Bound(part, int(q), int(k), sympy.expand(-rest), always)


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


def between(part: Boolean) -> tuple[Boolean, Boolean] | None:
    """abs(x) <= limit as x <= limit and -x <= limit."""
    difference = below_zero(part)
    if difference is None:
        return None
    found = list(difference.atoms(sympy.Abs))
    if len(found) != 1 or difference.coeff(found[0]) != 1:
        return None
    rest, inner = sympy.expand(difference - found[0]), found[0].args[0]
    if rest.has(sympy.Abs):
        return None
    return sympy.Le(rest + inner, 0), sympy.Le(rest - inner, 0)


def tightest(bounds: list[Bound]) -> list[Bound]:
    """Without those that another one implies."""
    kept: list[Bound] = []
    for new in bounds:
        if not any((new.limit - old.limit).is_nonnegative for old in kept):
            kept = [old for old in kept if not (old.limit - new.limit).is_nonnegative]
            kept.append(new)
    return kept


def named(uppers: list[Bound], lowers: list[Bound], reads: Mapping[str, Read]) -> Iterator[Factor]:
    """uppers, lowers: bounds that all hold. The factors for them."""
    uppers, lowers = tightest(uppers), tightest(lowers)
    offsets = {upper: found for upper in uppers if (found := amount(upper.limit, reads))}
    for upper in uppers:
        middle = centre(upper, lowers[0]) if len(uppers) == len(lowers) == 1 else None
        offset = amount(middle, reads) if middle is not None else None
        if middle is not None and offset is not None:
            size = sympy.expand(upper.limit - middle + 1)
            yield Ahead(upper.condition, size, offset)
            yield Window(lowers[0].condition, size, offset)
            return
        if upper in offsets:
            yield Causal(upper.condition, offsets[upper])
        else:
            yield Unexplained(upper.condition)
    for lower in lowers:
        yield window(lower, offsets, reads)


def window(lower: Bound, offsets: Mapping[Bound, Amount], reads: Mapping[str, Read]) -> Factor:
    """At the offset of a bound above; without one, at what is subtracted from a size."""
    subtracted = [t for t in sympy.Add.make_args(lower.limit) if t.could_extract_minus_sign()]
    own = -sum((t for t in subtracted if not t.is_number), sympy.Integer(0))
    places = [(upper.limit, offset) for upper, offset in offsets.items()]
    found = amount(own, reads)
    for value, offset in (*places, *([(own, found)] if found else [])):
        size = sympy.expand(lower.limit + value + 1)
        if not size.has(AppliedUndef) and amount(size, reads):
            return Window(lower.condition, size, offset)
    return Unexplained(lower.condition)


def centre(upper: Bound, lower: Bound) -> sympy.Expr | None:
    """The offset at which a query sees as far ahead as back, where it is no number but 0.

    With another number, a query that sees ahead is as well one that stands further on and does not.
    """
    offset = sympy.expand((upper.limit - lower.limit) / 2)
    reach = sympy.expand((upper.limit + lower.limit) / 2)
    if offset.as_coeff_Add()[0] != 0 or reach == 0 or reach.has(AppliedUndef):
        return None
    factors = [term.as_coeff_Mul()[0] for term in sympy.Add.make_args(offset)]
    return offset if all(f.is_Integer and f >= 0 for f in factors) else None


def is_free(condition: Boolean) -> bool:
    """Whether it does not mention the query."""
    return QUERY not in condition.free_symbols


def prefix(part: Boolean, rows: Size, columns: Size, reads: Mapping[str, Read]) -> Factor | None:
    """The first keys, or those up to the query's own. A Bound that always holds makes all hold."""
    if not isinstance(part, sympy.Or) or len(part.args) != 2:
        return None
    found = [bound(one, rows, columns) for one in part.args]
    for above, first in (found, found[::-1]):
        if above and first and above.is_upper and first.k == 1 and is_free(first.condition):
            offset, size = amount(above.limit, reads), amount(first.limit + 1, reads)
            if offset is not None and size is not None:
                return Prefix(part, size, offset)
    return None
