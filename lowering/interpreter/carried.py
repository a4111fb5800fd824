"""Values on their way from one block to another, and joining those of different lanes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch

from tile_backend.lowering.interpreter.frame import Frame, Mark, lanes_first
from tile_backend.lowering.interpreter.program import Value


@dataclasses.dataclass
class Carried:
    """tiles, and their marks of undetermined elements. lanes: which arrive, None for all."""

    tiles: list[Any]
    marks: list[Mark | None]
    lanes: torch.Tensor | None

    @classmethod
    def of(cls, frame: Frame, values: Sequence[Value]) -> Carried:
        """What the live lanes hand on."""
        marks = [frame.marks.get(v.slot) for v in values]
        return cls([frame.get(v) for v in values], marks, frame.live)

    def assign(self, frame: Frame, values: Sequence[Value]) -> None:
        """Give them to the variables of the block that goes on, and make these lanes live."""
        frame.live = self.lanes
        for value, tile, mark in zip(values, self.tiles, self.marks, strict=True):
            frame.put(value, tile)
            if mark is not None:
                frame.marks[value.slot] = mark

    def split(self, leaving: torch.Tensor) -> tuple[Carried | None, Carried | None]:
        """The lanes that leave (a bool [lanes]), and the others."""
        stay = ~leaving if self.lanes is None else self.lanes & ~leaving
        go = leaving if self.lanes is None else self.lanes & leaving
        parts = [
            Carried(self.tiles, self.marks, simplified(lanes)) if bool(lanes.any()) else None
            for lanes in (go, stay)
        ]
        return parts[0], parts[1]

    def same(self, other: Carried) -> bool:
        """Whether all tiles are equal."""
        return all(
            one is two or (one is not None and torch.equal(one, two))
            for one, two in zip(self.tiles, other.tiles, strict=True)
        )


def simplified(lanes: torch.Tensor) -> torch.Tensor | None:
    """None for all lanes."""
    return None if bool(lanes.all()) else lanes


def joined(values: Sequence[Value], one: Carried | None, other: Carried | None) -> Carried | None:
    """Both together; no lane arrives twice. values: variables that will take them, for ranks."""
    if one is None or other is None:
        return one or other
    assert one.lanes is not None, "lanes arrive once"
    assert other.lanes is not None, "lanes arrive once"
    tiles, marks = [], []
    for index, value in enumerate(values):
        mine = lanes_first(one.lanes, value.rank)
        tiles.append(_chosen(mine, one.tiles[index], other.tiles[index]))
        marks.append(_chosen_marks(mine, one.marks[index], other.marks[index]))
    return Carried(tiles, marks, simplified(one.lanes | other.lanes))


def _chosen(mine: torch.Tensor, one: Any, other: Any) -> Any:
    if one is other or one is None:  # the same tile, or a memory token
        return one
    return torch.where(mine, one, other)


def _chosen_marks(mine: torch.Tensor, one: Mark | None, other: Mark | None) -> Mark | None:
    if one is None and other is None:
        return None
    nothing = torch.zeros((), dtype=torch.bool)
    mask = torch.where(mine, one.mask if one else nothing, other.mask if other else nothing)
    origins = [mark.origins for mark in (one, other) if mark is not None]
    return Mark(mask, frozenset().union(*origins))
