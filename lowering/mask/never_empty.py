"""Which masks surely leave every query a key: for those it is all the same what a softmax of
nothing is.

The proof names a key: the one at the query's own position, or the first.
"""

from __future__ import annotations

import sympy

from tile_backend.lowering.mask.factors import (
    Ahead,
    Amount,
    Causal,
    Chunk,
    Factor,
    Prefix,
    Segments,
    Window,
)
from tile_backend.lowering.mask.meaning import Meaning
from tile_backend.lowering.node import Size


def sees_itself(meaning: Meaning, rows: Size, columns: Size) -> bool:
    """True only where it is proven for all sizes and contents."""
    if meaning.problem or not sympy.sympify(columns, strict=True).is_positive:
        return False
    return all(sees_first(factor) for factor in meaning.factors) or sees_own(meaning, rows, columns)


def sees_first(factor: Factor) -> bool:
    """Every query sees key 0: its position is none before it."""
    return isinstance(factor, (Causal, Prefix)) and not_negative(factor.offset)


def sees_own(meaning: Meaning, rows: Size, columns: Size) -> bool:
    """There is a key at the position of each query, and each factor shows it."""
    offset = meaning.offset
    if offset is None or not not_negative(offset):
        return False
    inside = sympy.expand(columns - rows - offset.known).is_nonnegative
    return bool(inside) and all(shows_own(factor) for factor in meaning.factors)


def shows_own(factor: Factor) -> bool:
    if isinstance(factor, (Window, Ahead)):
        return bool(factor.size.is_positive)
    return isinstance(factor, (Causal, Prefix, Chunk, Segments))


def not_negative(offset: Amount) -> bool:
    """Nothing is known of what a tensor holds."""
    return offset.read is None and bool(offset.known.is_nonnegative)
