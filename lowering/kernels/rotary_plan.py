"""The plan that `rotary` and `rotary_qk` share: axis of the heads, table views, tile sizes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch

from tile_backend.lowering.kernels import launch_plan
from tile_backend.lowering.kernels.configuration import Choose
from tile_backend.lowering.kernels.element_tile import ElementTile
from tile_backend.lowering.kernels.launch_plan import KernelLimit
from tile_backend.lowering.kernels.rotation import DEINTERLEAVE, HALF, INTERLEAVED
from tile_backend.lowering.kernels.row_layout import RESIDENT_WARPS, next_power_of_two
from tile_backend.lowering.reason import ReasonKind

LAYOUTS = {"half": HALF, "interleaved": INTERLEAVED, "deinterleave": DEINTERLEAVE}
ROUNDINGS = {"once": False, "every_op": True}
PAIRS_PER_BLOCK = 1024
"""8 pairs per thread of 4 warps."""
OCCUPANCY = RESIDENT_WARPS // 4
"""Four warps are the compiler's own choice."""


@dataclasses.dataclass(frozen=True)
class RotaryPlan:
    """Constants of one launch. `tables`: cos and sin as 4-D views whose axes fit x's.

    heads: axis of the heads, 1 or 2; the other one is the positions'.
    tile_heads, table_heads, positions: tile sizes along them, of x and of the tables.
    flags: the last constants of the kernels: pairs, width, layout, full, conjugate, every_op.
    hints: of the compiler.
    """

    tables: tuple[torch.Tensor, torch.Tensor]
    heads: int
    tile_heads: int
    table_heads: int
    positions: int
    flags: tuple[int | bool, ...]
    hints: Mapping[str, int]

    def grid(self, x: torch.Tensor) -> tuple[int, int, int]:
        """Position tiles, head tiles, batches."""
        positions = -(-x.shape[3 - self.heads] // self.positions)
        return positions, -(-x.shape[self.heads] // self.tile_heads), x.shape[0]


def four_axes(name: str, x: torch.Tensor) -> torch.Tensor:
    """x with leading axes of size 1 up to rank 4."""
    if not 1 <= x.dim() <= 4:
        raise KernelLimit(
            ReasonKind.SHAPE_LIMIT, f"`{name}` has {x.dim()} dimensions; the kernel takes 1 to 4"
        )
    return x[(None,) * (4 - x.dim())] if x.dim() < 4 else x


def table_view(table: torch.Tensor, x: torch.Tensor, heads: int) -> torch.Tensor:
    """The table with x's positions; size 1 stays where batch or heads broadcast."""
    for axis in range(3):
        if table.shape[axis] not in (1, x.shape[axis]):
            raise KernelLimit(
                ReasonKind.SHAPE_LIMIT,
                f"tables {list(table.shape)} do not broadcast against {list(x.shape)}",
            )
    positions = 3 - heads
    if table.shape[positions] == x.shape[positions]:
        return table
    sizes = [-1] * 4
    sizes[positions] = x.shape[positions]
    return table.expand(sizes)


def heads_axis(table: torch.Tensor, x: torch.Tensor, other: torch.Tensor) -> int:
    """1 or 2: where x and other differ, else where the table broadcasts over more than one head."""
    for axis in (1, 2):
        if x.shape[axis] != other.shape[axis]:
            return axis
    for axis in (1, 2):
        if table.shape[axis] == 1 and x.shape[axis] > 1:
            return axis
    return 1 if table.shape[1] == 1 else 2


def pairs_of(
    arguments: Mapping[str, Any], x: torch.Tensor, table: torch.Tensor
) -> tuple[int, bool]:
    """Number of rotated pairs, and whether the tables hold each angle twice."""
    width = x.shape[-1]
    rotary_dim = arguments.get("rotary_dim", -1)
    rotated = width if rotary_dim < 0 else rotary_dim
    if rotated > width or rotated % 2 or rotated == 0:
        raise KernelLimit(
            ReasonKind.SHAPE_LIMIT, f"{rotated} rotated features of {width}; they come in pairs"
        )
    if table.shape[-1] not in (rotated, rotated // 2):
        raise KernelLimit(
            ReasonKind.SHAPE_LIMIT,
            f"tables of width {table.shape[-1]} for {rotated} rotated features",
        )
    return rotated // 2, table.shape[-1] == rotated


def plan_rotary(arguments: Mapping[str, Any], choose: Choose, **inputs: torch.Tensor) -> RotaryPlan:
    """inputs: one or two 4-D tensors that share the tables; the sizes are for the first."""
    x, other = [*inputs.values(), *inputs.values()][:2]
    cos, sin = (four_axes(name, arguments[name]) for name in ("cos", "sin"))
    launch_plan.require_float(**inputs, cos=cos, sin=sin)
    launch_plan.require_same_dtype(cos=cos, sin=sin)
    launch_plan.require_same_shape(cos=cos, sin=sin)
    layout = launch_plan.choose("layout", arguments.get("layout", "half"), LAYOUTS)
    every_op = launch_plan.choose("rounding", arguments.get("rounding", "every_op"), ROUNDINGS)
    pairs, full = pairs_of(arguments, x, cos)
    heads = heads_axis(cos, x, other)
    tables = (table_view(cos, x, heads), table_view(sin, x, heads))
    padded = next_power_of_two(pairs)
    tile = choose(ElementTile(PAIRS_PER_BLOCK, occupancy=OCCUPANCY))
    tile_heads = min(next_power_of_two(x.shape[heads]), max(tile.elements // padded, 1))
    positions = max(tile.elements // (padded * tile_heads), 1)
    conjugate = bool(arguments.get("conjugate", False))
    return RotaryPlan(
        tables=tables,
        heads=heads,
        tile_heads=tile_heads,
        table_heads=1 if cos.shape[heads] == 1 else tile_heads,
        positions=positions,
        flags=(pairs, x.shape[-1], layout, full, conjugate, bool(every_op)),
        hints=tile.hints,
    )
