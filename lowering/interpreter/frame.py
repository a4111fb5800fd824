"""The state of blocks that run together: values, live lanes, marks of undetermined elements.

A tile of rank r is a tensor of rank r where all lanes (blocks) agree on it, and of rank r + 1 with
the lanes first where they do not; the rank tells which. With one lane nothing varies. `live` is
None where all lanes run, else a bool [lanes]; what a dead lane computes is never looked at.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

import torch

from tile_backend.lowering.interpreter.faults import FaultKind, KernelFault, UnsupportedKernel
from tile_backend.lowering.interpreter.memory import Memory
from tile_backend.lowering.interpreter.program import Op, Program, Value

Known = TypeVar("Known")


@dataclasses.dataclass(frozen=True)
class Run:
    """One launch. grid: blocks along x, y, z."""

    program: Program
    grid: tuple[int, int, int]
    memory: Memory


@dataclasses.dataclass(frozen=True)
class Mark:
    """Elements of a tile that are undetermined: a bool mask of the tile's shape (lanes first where
    it varies), and the lines they come from, in words.
    """

    mask: torch.Tensor
    origins: frozenset[str]


class Frame:
    """blocks: numbers of the blocks that run, int64 [lanes]; block x + y * X + z * X * Y."""

    def __init__(self, run: Run, blocks: torch.Tensor) -> None:
        self.run = run
        self.blocks = blocks
        self.lanes = len(blocks)
        self.live: torch.Tensor | None = None
        self.synchronised: torch.Tensor | None = None
        """Lanes that have passed an acquiring operation: they may read what others wrote."""
        self.marks: dict[int, Mark] = {}
        self.values: list[Any] = [None] * run.program.slots
        for value, constant in run.program.constants:
            self.values[value.slot] = constant

    def get(self, value: Value) -> torch.Tensor:
        """The tile of a value."""
        found: torch.Tensor = self.values[value.slot]
        return found

    def put(self, value: Value, tile: Any) -> None:
        """Assign a value; its marks of an earlier iteration go."""
        self.values[value.slot] = tile
        if self.marks:
            self.marks.pop(value.slot, None)

    def varies(self, value: Value) -> bool:
        """Whether the lanes have a tile each."""
        return self.get(value).dim() > value.rank

    def per_lane(self, value: Value) -> torch.Tensor:
        """The tile with the lanes first, whether it varies or not."""
        tile = self.get(value)
        return tile if tile.dim() > value.rank else tile.expand(self.lanes, *tile.shape)

    def mark(self, value: Value, mask: torch.Tensor, origin: str) -> None:
        """Say that elements of an assigned tile are undetermined; dead lanes do not count."""
        if self.live is not None:
            mask = mask & lanes_first(self.live, value.rank)
        if bool(mask.any()):
            old = self.marks.get(value.slot)
            origins = frozenset((origin,))
            if old is not None:
                mask, origins = mask | old.mask, origins | old.origins
            self.marks[value.slot] = Mark(mask, origins)

    def unsupported(self, op: Op, text: str) -> UnsupportedKernel:
        """The error for what the interpreter does not do, to be raised by the caller."""
        return UnsupportedKernel(self.run.program.kernel, op.source, op.opcode, text)

    def known(self, op: Op, table: Mapping[str, Known], field: str) -> Known:
        """The entry of a table for an attribute; raises UnsupportedKernel where there is none."""
        if op[field] not in table:
            raise self.unsupported(op, f"{field} {op[field]!r}; known are {', '.join(table)}")
        return table[op[field]]

    def fault(
        self, kind: FaultKind, op: Op, text: str, lanes: torch.Tensor | None = None
    ) -> KernelFault:
        """The error for a broken rule, to be raised by the caller.

        lanes: a bool tensor with the lanes at fault first, or (at one lane) of any shape.
        """
        block = None
        if lanes is not None and self.lanes > 1 and lanes.dim():
            first = int(lanes.flatten(1).any(1).nonzero()[0]) if lanes.dim() > 1 else None
            block = self.block(int(lanes.nonzero()[0]) if first is None else first)
        elif self.lanes == 1:
            block = self.block(0)
        return KernelFault(kind, self.run.program.kernel, op.source, text, block)

    def block(self, lane: int) -> tuple[int, int, int]:
        """Index of a lane's block in the grid."""
        return block_index(int(self.blocks[lane]), self.run.grid)

    def alive(self, condition: torch.Tensor) -> torch.Tensor:
        """A bool [lanes] or scalar, without the lanes that do not run."""
        return condition if self.live is None else condition & self.live


def block_index(number: int, grid: tuple[int, int, int]) -> tuple[int, int, int]:
    """Position in the grid of block `number`."""
    return number % grid[0], number // grid[0] % grid[1], number // (grid[0] * grid[1])


def lanes_first(mask: torch.Tensor, rank: int) -> torch.Tensor:
    """A mask of lanes, shaped to broadcast over tiles of that rank."""
    return mask.reshape(-1, *(1,) * rank)
