"""A meaning as arguments of an op: numbers, flags, and the tensors of the graph that the mask reads.

Query i stands at position start + i, and offset later than that, where the offset is a tensor of
the graph. What the arguments cannot say is left to the mask itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import sympy
import torch
from sympy.core.function import AppliedUndef

from tile_backend.lowering.canonical import CanonicalGraph
from tile_backend.lowering.fusion import MaskFacts
from tile_backend.lowering.mask.factors import (
    BATCH,
    KEY,
    QUERY,
    Causal,
    Chunk,
    Factor,
    Padding,
    Segments,
    Window,
)
from tile_backend.lowering.mask.meaning import Meaning
from tile_backend.lowering.mask.source import Source
from tile_backend.lowering.node import Size

MOST_POSITION = 2**31 - 1


def facts_of(meaning: Meaning, canonical: CanonicalGraph, rows: Size, columns: Size) -> MaskFacts:
    """rows, columns: numbers of queries and of keys."""
    if meaning.problem:
        return MaskFacts({}, whole=False)
    found: dict[str, Any] = {}
    whole = True
    first = position_of_first(meaning)
    for factor in meaning.factors:
        said = dict(arguments(factor, first, canonical))
        known = bool(said) and not found.keys() & said.keys()
        whole = whole and known
        found |= said if known else {}
    if found.keys() & {"is_causal", "window", "chunk"}:
        places = position(first, canonical)
        if places is None:
            return MaskFacts({}, whole=False)
        found |= places
    return MaskFacts(found, whole, meaning.hides_with, meaning.is_all or meaning.is_causal)


def position_of_first(meaning: Meaning) -> sympy.Expr:
    """The position of query 0; a mask without a causal part has no say in it."""
    return next((f.offset for f in meaning.factors if isinstance(f, Causal)), sympy.Integer(0))


def position(first: sympy.Expr, canonical: CanonicalGraph) -> dict[str, Any] | None:
    """`start` and `offset` for it; None where it is neither a number nor one read beside one."""
    constant, rest = first.as_coeff_Add()
    if not (constant.is_Integer and 0 <= constant < MOST_POSITION):
        return None
    if rest == 0:
        return {"start": int(constant)}
    if not isinstance(rest, AppliedUndef) or any(not index.is_Integer for index in rest.args):
        return None
    return {"start": int(constant), "offset": read(rest, canonical)}


def read(element: AppliedUndef, canonical: CanonicalGraph) -> Source:
    """One element, at known indices, as a tensor without dimensions."""
    index = tuple(int(i) for i in element.args)
    return Source(
        canonical.masks.reads[str(element.func)], lambda tensor: tensor[index] if index else tensor
    )


def arguments(
    factor: Factor, first: sympy.Expr, canonical: CanonicalGraph
) -> Iterator[tuple[str, Any]]:
    """What an op calls the factor; nothing for one that has no such name."""
    if isinstance(factor, Causal):
        yield "is_causal", True
    elif isinstance(factor, Window):
        yield from size("window", sympy.expand(factor.size + first))
    elif isinstance(factor, Chunk) and first == 0:
        yield from size("chunk", factor.size)
    elif isinstance(factor, Padding):
        yield from padding(factor, canonical)
    elif isinstance(factor, Segments) and first == 0:
        yield from segments(factor, canonical)


def size(name: str, expression: sympy.Expr) -> Iterator[tuple[str, Any]]:
    if expression.is_Integer and 0 < expression < MOST_POSITION:
        yield name, int(expression)


def padding(factor: Padding, canonical: CanonicalGraph) -> Iterator[tuple[str, Any]]:
    """Where the condition is one element of a tensor [B or 1, L] or [L]."""
    condition = factor.condition
    if not (isinstance(condition, sympy.Ne) and condition.args[1] == 0):
        return
    element = condition.args[0]
    if isinstance(element, AppliedUndef) and is_row(element, KEY):
        view = rows_of(element, lambda x: x if x.dtype is torch.bool else x != 0)
        yield "padding", Source(canonical.masks.reads[str(element.func)], view)


def segments(factor: Segments, canonical: CanonicalGraph) -> Iterator[tuple[str, Any]]:
    """Where both sides are elements of one tensor [B or 1, L] or [L]."""
    for element in factor.condition.args:
        if isinstance(element, AppliedUndef) and is_row(element, QUERY):
            yield "segments", Source(canonical.masks.reads[factor.ids], rows_of(element))


def is_row(element: AppliedUndef, index: sympy.Symbol) -> bool:
    """x[b, index], x[0, index] or x[index]."""
    *leading, last = element.args
    return last == index and (not leading or leading in ([BATCH], [sympy.Integer(0)]))


def rows_of(element: AppliedUndef, view: Any = lambda x: x) -> Any:
    """[B, L], or [1, L] where every batch entry reads the first row."""
    if len(element.args) == 1:
        return lambda x: view(x)[None]
    return (lambda x: view(x)[:1]) if element.args[0] == 0 else view
