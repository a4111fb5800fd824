"""A kernel as the interpreter runs it: plain data, made from cuTile's IR by `adapter`.

Nothing here belongs to cuda.tile, so that what its next version renames ends in one file. A `Value`
is assigned once per execution of its op; an `Op` has cuda-tile's opcode and field names, which
`contract` lists.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from tile_backend.lowering.interpreter.elements import Element


@dataclasses.dataclass(frozen=True)
class Source:
    """The user's line behind an op. calls: the lines that called it, innermost first."""

    path: str
    line: int
    calls: tuple[tuple[str, int], ...] = ()

    def __str__(self) -> str:
        frames = [(self.path, self.line), *self.calls]
        shown = [f"{path.rsplit('/', 1)[-1]}:{line}" for path, line in frames]
        return f"{shown[0]} (called from {', '.join(shown[1:])})" if shown[1:] else shown[0]


class Padding(enum.Enum):
    """What a load gives for elements outside its array."""

    UNDETERMINED = "undetermined"
    ZERO = "zero"
    NEG_ZERO = "neg_zero"
    NAN = "nan"
    POS_INF = "pos_inf"
    NEG_INF = "neg_inf"


@dataclasses.dataclass(frozen=True)
class TileType:
    """A tile; a scalar has the shape ()."""

    element: Element
    shape: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class ViewType:
    """A partition of an array into tiles.

    order: the array axis of each tile axis.  steps: elements from one tile to the next.
    sparse: the axis whose index lists elements, or None.
    """

    element: Element
    tile_shape: tuple[int, ...]
    order: tuple[int, ...]
    steps: tuple[int, ...]
    sparse: int | None
    padding: Padding


@dataclasses.dataclass(frozen=True)
class ArrayType:
    """An array in memory, or a list of arrays (`items` is theirs)."""

    element: Element
    rank: int
    items: ArrayType | None = None


@dataclasses.dataclass(frozen=True)
class TokenType:
    """Orders memory operations; has no value."""


Type = TileType | ViewType | ArrayType | TokenType


@dataclasses.dataclass(frozen=True, eq=False)
class Value:
    """One SSA value. slot: its place in a frame. rank: of its tile, 0 for anything else."""

    slot: int
    name: str
    type: Type

    @property
    def rank(self) -> int:
        return len(self.type.shape) if isinstance(self.type, TileType) else 0

    @property
    def shape(self) -> tuple[int, ...]:
        assert isinstance(self.type, TileType), f"{self.name} is no tile"
        return self.type.shape

    @property
    def element(self) -> Element:
        assert not isinstance(self.type, TokenType), f"{self.name} is a token"
        return self.type.element


@dataclasses.dataclass(frozen=True, eq=False)
class Block:
    """A list of ops. parameters: assigned by the op that the block belongs to."""

    parameters: tuple[Value, ...]
    ops: tuple[Op, ...]

    def walk(self) -> Iterator[Op]:
        """Every op, those of nested blocks after the op that has them."""
        for op in self.ops:
            yield op
            for block in op.blocks:
                yield from block.walk()


@dataclasses.dataclass(frozen=True, eq=False)
class Op:
    """`op["x"]` is an operand (Value, tuple of them or None), an attribute or a Block, by name."""

    opcode: str
    results: tuple[Value, ...]
    fields: Mapping[str, Any]
    inputs: tuple[Value, ...]
    blocks: tuple[Block, ...]
    source: Source

    def __getitem__(self, name: str) -> Any:
        return self.fields[name]

    @property
    def result(self) -> Value:
        return self.results[0]


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """One specialization of a kernel.

    parameters: the kernel's, as `name -> values` in order; an array is its address, sizes and
                strides.
    constants:  value and tensor of each typed constant.
    slots:      how many places a frame has.
    """

    kernel: str
    parameters: tuple[tuple[str, tuple[Value, ...]], ...]
    body: Block
    constants: tuple[tuple[Value, torch.Tensor], ...]
    slots: int
