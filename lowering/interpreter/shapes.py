"""Ops that move elements: the same functions move values and marks of undetermined elements."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from tile_backend.lowering.interpreter import undetermined
from tile_backend.lowering.interpreter.faults import FaultKind
from tile_backend.lowering.interpreter.frame import Frame
from tile_backend.lowering.interpreter.program import Op, Value
from tile_backend.lowering.interpreter.registry import runs

Look = Callable[[Value], torch.Tensor]
"""A value's tile, or the mask of its marks."""
Move = Callable[[Frame, Op, Look], torch.Tensor]


def moves(*opcodes: str) -> Callable[[Move], Move]:
    """Register a function for values and marks."""

    def register(move: Move) -> Move:
        def handler(frame: Frame, op: Op) -> None:
            frame.put(op.result, move(frame, op, frame.get))

        def rule(frame: Frame, op: Op) -> Sequence[torch.Tensor]:
            return [move(frame, op, lambda value: undetermined.mask_of(frame, value))]

        runs(*opcodes)(handler)
        undetermined.spreads(*opcodes)(rule)
        return move

    return register


def lane_axes(value: Value, tile: torch.Tensor) -> int:
    """1 where the lanes come first, else 0."""
    return tile.dim() - value.rank


@moves("assign")
def assign(frame: Frame, op: Op, look: Look) -> torch.Tensor:
    return look(op["value"])


@moves("tile_reshape")
def reshape(frame: Frame, op: Op, look: Look) -> torch.Tensor:
    x = look(op["x"])
    return x.reshape((*x.shape[: lane_axes(op["x"], x)], *op.result.shape))


@moves("tile_broadcast")
def broadcast(frame: Frame, op: Op, look: Look) -> torch.Tensor:
    x = look(op["x"])
    return x.expand((*x.shape[: lane_axes(op["x"], x)], *op.result.shape))


@moves("tile_permute")
def permute(frame: Frame, op: Op, look: Look) -> torch.Tensor:
    x = look(op["x"])
    lead = lane_axes(op["x"], x)
    return x.permute(*range(lead), *(axis + lead for axis in op["axes"]))


@moves("tile_cat")
def cat(frame: Frame, op: Op, look: Look) -> torch.Tensor:
    pair = [look(op["x"]), look(op["y"])]
    lead = max(lane_axes(op["x"], x) for x in pair)
    if lead:
        rank = op["x"].rank
        pair = [x if x.dim() > rank else x.expand(frame.lanes, *x.shape) for x in pair]
    return torch.cat(pair, op["axis"] + lead)


@moves("tile_extract")
def extract(frame: Frame, op: Op, look: Look) -> torch.Tensor:
    """The part at an index that counts parts; see ct.extract."""
    x, parts = _in_parts(op["x"], look(op["x"]), op["shape"])
    lead = x.dim() - 2 * len(parts)
    index = _indices(frame, op, parts)
    if all(i.dim() == 0 for i in index):
        return x[(slice(None),) * lead + tuple(int(i) for i in index)]
    lanes = torch.arange(frame.lanes)
    return x[(lanes, *index)] if lead else x[tuple(index)]


@moves("tile_insert")
def insert(frame: Frame, op: Op, look: Look) -> torch.Tensor:
    """x with one part replaced; see ct.insert."""
    x, value = look(op["x"]), look(op["value"])
    index = _indices(frame, op, _parts(op["x"].shape, op["value"].shape))
    varies = max(lane_axes(op["x"], x), lane_axes(op["value"], value), *(i.dim() for i in index))
    if varies and x.dim() == op["x"].rank:
        x = x.expand(frame.lanes, *x.shape)
    result = x.clone()
    parts, _ = _in_parts(op["x"], result, op["value"].shape)
    assert parts.data_ptr() == result.data_ptr(), "a clone is split without another copy"
    if varies:
        parts[(torch.arange(frame.lanes), *index)] = value
    else:
        parts[tuple(int(i) for i in index)] = value
    return result


def _parts(shape: Sequence[int], part: Sequence[int]) -> list[int]:
    return [whole // size for whole, size in zip(shape, part, strict=True)]


def _in_parts(
    value: Value, tile: torch.Tensor, part: Sequence[int]
) -> tuple[torch.Tensor, list[int]]:
    """The tile as [lanes?, *number of parts, *part], a view where it can be, and those numbers."""
    lead, rank = lane_axes(value, tile), value.rank
    counts = _parts(value.shape, part)
    split = [size for pair in zip(counts, part, strict=True) for size in pair]
    tile = tile.reshape(*tile.shape[:lead], *split)
    order = [lead + 2 * d for d in range(rank)] + [lead + 2 * d + 1 for d in range(rank)]
    return tile.permute(*range(lead), *order), counts


def _indices(frame: Frame, op: Op, counts: Sequence[int]) -> list[torch.Tensor]:
    """The index of the part, long; a fault where a live lane's is outside."""
    found = []
    for value, count in zip(op["index"], counts, strict=True):
        undetermined.refuse(frame, op, value, "is used as an index")
        index = frame.get(value).long()
        outside = frame.alive((index < 0) | (index >= count))
        if bool(outside.any()):
            text = f"an index into {count} parts of a tile is outside"
            raise frame.fault(FaultKind.OUT_OF_BOUNDS, op, text, outside)
        found.append(index.clamp(0, count - 1))
    return found
