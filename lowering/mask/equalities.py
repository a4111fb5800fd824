"""Conditions that compare what query and key belong to: chunks, packed segments."""

from __future__ import annotations

from collections.abc import Mapping

import sympy
from sympy.core.function import AppliedUndef
from sympy.logic.boolalg import Boolean

from tile_backend.lowering.mask.factors import (
    ALWAYS,
    BATCH,
    KEY,
    QUERY,
    Amount,
    Chunk,
    Factor,
    Segments,
    amount,
)
from tile_backend.lowering.mask.moments import Read
from tile_backend.lowering.node import Size


def chunk(part: Boolean, rows: Size, columns: Size, reads: Mapping[str, Read]) -> Factor | None:
    """A first chunk that holds all is no condition."""
    if not isinstance(part, sympy.Eq):
        return None
    difference = part.lhs - part.rhs
    found = [f for f in difference.atoms(sympy.floor) if KEY in f.free_symbols]
    if len(found) != 1 or difference.coeff(found[0]) not in (1, -1):
        return None
    of_key = found[0]
    other = sympy.expand(of_key - difference * difference.coeff(of_key))
    size = 1 / sympy.expand(of_key.args[0]).coeff(KEY)
    if not (size.is_Integer and size > 0) or sympy.expand(of_key.args[0] * size) != KEY:
        return None
    floors = list(other.atoms(sympy.floor))
    if not other.is_integer or len(floors) > 1 or (floors and other.coeff(floors[0]) != 1):
        return None
    other = other.xreplace({floor: floor.args[0] for floor in floors})
    offset = offset_of(other * size, rows, reads)
    if offset is None:
        return None
    first = (size - columns, size - rows - offset.known, offset.known)
    if offset.read is None and all(sympy.expand(n).is_nonnegative for n in first):
        return ALWAYS
    return Chunk(part, size, offset)


def segments(part: Boolean, rows: Size, reads: Mapping[str, Read]) -> Factor | None:
    """One tensor of identifiers, read at the query's position and at the key."""
    if not isinstance(part, sympy.Eq):
        return None
    for one, other in (part.args, part.args[::-1]):
        entry = is_row(other, reads)
        if entry is None or not isinstance(one, AppliedUndef) or one.func != other.func:
            continue
        offset = offset_of(one.args[-1], rows, reads)
        if one.args[:-1] == other.args[:-1] and offset is not None:
            return Segments(part, reads[str(one.func)], entry, offset)
    return None


def offset_of(position: sympy.Expr, rows: Size, reads: Mapping[str, Read]) -> Amount | None:
    """Of the query's position q + offset; a single query has index 0, and need not be mentioned."""
    position = sympy.expand(position)
    if rows == 1 and QUERY not in position.free_symbols:
        return amount(position, reads)
    return amount(position - QUERY, reads)


def is_row(read: object, reads: Mapping[str, Read]) -> bool | None:
    """Whether a read is x[b, k] rather than x[0, k] or x[k]; None where it is none of them."""
    if not isinstance(read, AppliedUndef) or not read.args or read.args[-1] != KEY:
        return None
    leading = read.args[:-1]
    return bool(leading) and leading[0] == BATCH if leading in ((), (BATCH,), (0,)) else None
