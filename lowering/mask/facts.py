"""A meaning as arguments of an op: numbers, flags, and tensors of the graph that the mask reads.

Query i stands at position start + i, and offset later than that, where the offset is a tensor of
the graph. What the arguments cannot say is left to the mask itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import sympy
import torch

from tile_backend.lowering.effects import Effects
from tile_backend.lowering.fusion import MaskFacts
from tile_backend.lowering.mask.factors import (
    NOTHING,
    Ahead,
    Amount,
    Causal,
    Chunk,
    Factor,
    Padding,
    Segments,
    Window,
)
from tile_backend.lowering.mask.meaning import Meaning
from tile_backend.lowering.mask.moments import Read
from tile_backend.lowering.mask.never_empty import sees_itself
from tile_backend.lowering.mask.sizes import as_tensor
from tile_backend.lowering.mask.source import Source
from tile_backend.lowering.node import Size, shape, value

MOST_POSITION = 2**31 - 1
POSITIONAL = frozenset(("is_causal", "window", "chunk", "segments"))


def facts_of(
    meaning: Meaning, rows: Size, columns: Size, effects: Effects, device: torch.device
) -> MaskFacts:
    """rows, columns: numbers of queries and of keys. effects: of the graph. device: of the call."""
    if meaning.problem:
        return MaskFacts({}, whole=False)
    found: dict[str, Any] = {}
    whole = True
    first = position_of_first(meaning)
    for factor in meaning.factors:
        said = dict(arguments(factor, first, columns))
        known = bool(said) and not found.keys() & said.keys()
        whole = whole and known
        found |= said if known else {}
    if found.keys() & POSITIONAL:
        places = position(first, effects, device)
        if places is None:
            return MaskFacts({}, whole=False)
        found |= places
    return MaskFacts(found, whole, meaning.hides_with, sees_itself(meaning, rows, columns))


def position_of_first(meaning: Meaning) -> Amount:
    """The position of query 0. One that sees ahead is one that stands further on and does not."""
    for factor in meaning.factors:
        if isinstance(factor, Ahead):
            return factor.offset.plus(factor.size - 1)
        if isinstance(factor, (Causal, Window, Chunk, Segments)):
            return factor.offset
    return NOTHING


def position(first: Amount, effects: Effects, device: torch.device) -> dict[str, Any] | None:
    """`start` and `offset` for it; None where it is more than a number and an element, or size."""
    if first.known.free_symbols and first.read is None:
        found = as_tensor(first.known, effects, device)
        return None if found is None else {"offset": found}
    if not (first.known.is_Integer and 0 <= first.known < MOST_POSITION):
        return None
    if first.read is None:
        return {"start": int(first.known)}
    return {"start": int(first.known), "offset": element(first.read, first.index)}


def element(read: Read, index: tuple[int, ...]) -> Source:
    """One element, at known indices, as a tensor without dimensions."""
    return Source(read.node, lambda tensor: tensor[index] if index else tensor, read.before)


def arguments(factor: Factor, first: Amount, columns: Size) -> Iterator[tuple[str, Any]]:
    """What an op calls the factor; nothing for one that has no such name."""
    if isinstance(factor, Causal) and factor.offset == first:
        yield "is_causal", True
    if isinstance(factor, Ahead) and factor.offset.plus(factor.size - 1) == first:
        yield "is_causal", True
    elif isinstance(factor, Window) and factor.offset.plus(-factor.offset.known) == first.plus(
        -first.known
    ):
        yield from size("window", factor.size + first.known - factor.offset.known)
    elif isinstance(factor, Chunk) and factor.offset == first:
        yield from size("chunk", factor.size)
    elif isinstance(factor, Padding) and factor.keep is not None:
        yield from padding(factor.keep, factor.by_batch, columns)
    elif isinstance(factor, Segments) and factor.offset == first:
        yield from segments(factor.ids, factor.by_batch, columns)


def size(name: str, expression: sympy.Expr) -> Iterator[tuple[str, Any]]:
    expression = sympy.expand(expression)
    if expression.is_Integer and 0 < expression < MOST_POSITION:
        yield name, int(expression)


def padding(keep: Read, by_batch: bool, columns: Size) -> Iterator[tuple[str, Any]]:
    """A tensor that is as long as there are keys, or longer by numbers that are known."""
    length = shape(value(keep.node))[-1]
    if length != columns and not (isinstance(length, int) and isinstance(columns, int)):
        return
    cut = columns if length != columns else None

    def view(x: Any) -> Any:
        kept = x if cut is None else x[..., :cut]
        return kept if x.dtype is torch.bool else kept != 0

    yield "padding", Source(keep.node, rows_of(keep, by_batch, view), keep.before)


def segments(ids: Read, by_batch: bool, columns: Size) -> Iterator[tuple[str, Any]]:
    """Of a tensor that has the length of the keys: queries may stand at any of its places."""
    if shape(value(ids.node))[-1] == columns:
        yield "segments", Source(ids.node, rows_of(ids, by_batch, lambda x: x), ids.before)


def rows_of(read: Read, by_batch: bool, view: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """[B, L], or [1, L] where every batch entry reads the first row."""
    if value(read.node).dim() == 1:
        return lambda x: view(x)[None]
    return view if by_batch else lambda x: view(x)[:1]
