"""A condition on query and key as a product of factors that have a name.

What always holds is dropped, and what has no name is `Unexplained`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import sympy
from sympy.core.function import AppliedUndef
from sympy.logic.boolalg import Boolean

from tile_backend.lowering.mask.bounds import Bound, between, bound, named, prefix
from tile_backend.lowering.mask.equalities import chunk, is_row, segments
from tile_backend.lowering.mask.factors import (
    ALWAYS,
    HEAD,
    KEY,
    ORDER,
    QUERY,
    Factor,
    Padding,
    Unexplained,
)
from tile_backend.lowering.mask.moments import Read
from tile_backend.lowering.node import Size


def factors(
    condition: Boolean, rows: Size, columns: Size, reads: Mapping[str, Read]
) -> tuple[Factor, ...]:
    """() where every query sees every key. rows, columns: numbers of queries and of keys."""
    uppers: list[Bound] = []
    lowers: list[Bound] = []
    found: dict[Factor, None] = {}
    for part in parts(condition):
        line = bound(part, rows, columns)
        if part == sympy.true or is_always(part, rows, columns):
            continue
        if line is not None and (line.is_upper or line.is_lower):
            (uppers if line.is_upper else lowers).append(line)
            continue
        factor = (
            prefix(part, rows, columns, reads)
            or chunk(part, rows, columns, reads)
            or segments(part, rows, reads)
            or padding(part, reads)
            or Unexplained(part)
        )
        if factor != ALWAYS:
            found[factor] = None
    found.update(dict.fromkeys(named(uppers, lowers, reads)))
    return tuple(sorted(found, key=lambda factor: ORDER.index(type(factor))))


def parts(condition: Boolean) -> Iterator[Boolean]:
    """The conjuncts, negations moved inwards."""
    for part in sympy.And.make_args(condition):
        if isinstance(part, sympy.Not) and isinstance(part.args[0], sympy.Or):
            for inner in part.args[0].args:
                yield from parts(sympy.Not(inner))
        elif isinstance(part, sympy.And):
            yield from parts(part)
        else:
            yield from between(part) or (part,)


def is_always(part: Boolean, rows: Size, columns: Size) -> bool:
    """Whether a bound, or one of two alternatives, holds for all queries and keys."""
    found = [bound(one, rows, columns) for one in sympy.Or.make_args(part)]
    return any(line is not None and line.always for line in found)


def padding(part: Boolean, reads: Mapping[str, Read]) -> Factor | None:
    """A condition on the key alone; with its tensor where that is all there is to it."""
    free = part.free_symbols
    if KEY not in free or {QUERY, HEAD} & free or not part.atoms(AppliedUndef):
        return None
    entry = is_row(part.lhs, reads) if isinstance(part, sympy.Ne) and part.rhs == 0 else None
    keep = reads[str(part.lhs.func)] if entry is not None else None
    return Padding(part, keep, bool(entry))
