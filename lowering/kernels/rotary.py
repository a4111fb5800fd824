"""Rotary position embedding of one tensor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cuda.tile as ct
import torch

from tile_backend.lowering.kernels import launch_plan
from tile_backend.lowering.kernels.compiled import kernel
from tile_backend.lowering.kernels.configuration import Choose, as_planned
from tile_backend.lowering.kernels.launch_plan import Launch, Sample
from tile_backend.lowering.kernels.rotary_plan import four_axes, plan_rotary
from tile_backend.lowering.kernels.rotation import rotate


def rotary(
    x: ct.Array,
    cos: ct.Array,
    sin: ct.Array,
    out: ct.Array,
    HEADS: ct.Constant[int],
    TILE_HEADS: ct.Constant[int],
    TABLE_HEADS: ct.Constant[int],
    POSITIONS: ct.Constant[int],
    PAIRS: ct.Constant[int],
    WIDTH: ct.Constant[int],
    LAYOUT: ct.Constant[int],
    FULL: ct.Constant[bool],
    CONJUGATE: ct.Constant[bool],
    EVERY_OP: ct.Constant[bool],
    BACK: ct.Constant[bool],
) -> None:
    """Grid (position tiles, head tiles, batch) over 4-D x and out; see rotation.rotate."""
    rotate(
        *(x, cos, sin, out),
        *(ct.bid(2), ct.bid(1), ct.bid(0)),
        *(HEADS, TILE_HEADS, TABLE_HEADS, POSITIONS),
        *(PAIRS, WIDTH, LAYOUT, FULL, CONJUGATE, EVERY_OP, BACK),
    )


def plan(
    arguments: Mapping[str, Any],
    outputs: tuple[torch.Tensor | None, ...],
    arch: str,
    choose: Choose = as_planned,
) -> Launch | None:
    """See launch_plan. x [..., D] of rank 1 to 4 and any strides; outputs: (like x,)."""
    return plan_turn(arguments, outputs, choose)


def plan_turn(
    arguments: Mapping[str, Any],
    outputs: tuple[torch.Tensor | None, ...],
    choose: Choose,
    back: bool = False,
) -> Launch | None:
    """back: from `dout`, the gradient of a result, to that of the argument."""
    (out,) = outputs
    if out is None or launch_plan.is_empty(outputs):
        return None
    name = "dout" if back else "x"
    x, out = four_axes(name, arguments[name]), four_axes(name, out)
    shape = plan_rotary(arguments, choose, **{name: x})
    sizes = (shape.heads, shape.tile_heads, shape.table_heads, shape.positions)
    return launch_plan.launch(
        kernel(rotary, **shape.hints),
        shape.grid(x),
        (x, *shape.tables, out, *sizes, *shape.flags, back),
    )


DEFAULTS = {"layout": "half", "rotary_dim": -1, "conjugate": False, "rounding": "every_op"}


def samples() -> list[Sample]:
    """Every layout with full or half-width tables, part of the features, and another dtype."""
    half, full = torch.bfloat16, torch.float32
    rows: list[tuple[str, int, int, torch.dtype, dict[str, Any]]] = [
        ("half", 128, 128, half, {}),
        ("half_split", 128, 64, full, {"conjugate": True}),
        ("interleaved", 128, 64, full, {"layout": "interleaved", "rounding": "once"}),
        ("interleaved_full", 128, 128, half, {"layout": "interleaved"}),
        ("deinterleave", 64, 64, half, {"layout": "deinterleave"}),
        ("partial", 80, 32, half, {"rotary_dim": 32, "rounding": "once"}),
    ]
    samples: list[Sample] = []
    for name, width, table, dtype, given in rows:
        x = torch.empty(2, 64, 8, width, dtype=half, device="meta").transpose(1, 2)
        cos, sin = (torch.empty(2, 1, 64, table, dtype=dtype, device="meta") for _ in range(2))
        attributes = {**DEFAULTS, **given}
        once = attributes["rounding"] == "once"
        out = torch.empty_like(x, dtype=half if once else torch.promote_types(half, dtype))
        samples.append((name, {"x": x, "cos": cos, "sin": sin, **attributes}, (out,)))
    return samples
