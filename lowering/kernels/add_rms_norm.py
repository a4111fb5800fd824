"""Residual add, then RMSNorm: reads x and the residual once, writes the sum and its norm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cuda.tile as ct
import torch

from tile_backend.lowering.kernels import launch_plan
from tile_backend.lowering.kernels.compiled import kernel
from tile_backend.lowering.kernels.configuration import Choose, as_planned
from tile_backend.lowering.kernels.launch_plan import Launch, Sample
from tile_backend.lowering.kernels.norm_plan import check_rows, gain_or, norm_samples
from tile_backend.lowering.kernels.rms import ROUNDING as MODES
from tile_backend.lowering.kernels.rms import inverse_rms, normed_piece
from tile_backend.lowering.kernels.row_layout import merged, row_grid, row_tile
from tile_backend.lowering.kernels.rows import (
    load_rows,
    promoted,
    rounded,
    row_index,
    store_piece,
)

RESIDENT = {3: 4, 4: 3}
"""Pieces of a row -> quarters of 32 warps; see row_layout.row_tile."""


def add_rms_norm(
    x: ct.Array,
    residual: ct.Array,
    weight: ct.Array,
    normed: ct.Array,
    total: ct.Array,
    eps: float,
    offset: float,
    N: ct.Constant[int],
    ROWS: ct.Constant[int],
    BLOCK: ct.Constant[int],
    ROUNDING: ct.Constant[int],
    WEIGHTED: ct.Constant[bool],
    OFFSET: ct.Constant[bool],
    KEEP_NORMED: ct.Constant[bool],
    KEEP_TOTAL: ct.Constant[bool],
) -> None:
    """Views of row_layout.merged; an output not kept, or an absent weight, is not touched."""
    at = row_index(x)
    dtype = promoted(x.dtype, residual.dtype)
    ours = load_rows(x, at, N, ROWS, BLOCK)
    theirs = load_rows(residual, at, N, ROWS, BLOCK)
    sums: tuple[ct.Tile, ...] = ()
    for j in ct.static_iter(range(len(ours))):
        sums = (*sums, rounded(ours[j] + theirs[j], dtype))
    if KEEP_TOTAL:
        for j in ct.static_iter(range(len(sums))):
            store_piece(total, at, j, sums[j])
    if KEEP_NORMED:
        scale = inverse_rms(sums, eps, N, ROUNDING, dtype)
        for j in ct.static_iter(range(len(sums))):
            unit = normed_piece(
                sums[j], scale, weight, j, offset, ROUNDING, WEIGHTED, OFFSET, dtype
            )
            store_piece(normed, at, j, unit)


def plan(
    arguments: Mapping[str, Any],
    outputs: tuple[torch.Tensor | None, ...],
    arch: str,
    choose: Choose = as_planned,
) -> Launch | None:
    """See launch_plan. x and residual [..., D], weight [D] or None; outputs: (norm, sum)."""
    x, residual, weight = (arguments[name] for name in ("x", "residual", "weight"))
    normed, total = outputs
    mode = launch_plan.choose("rounding", arguments.get("rounding", "once"), MODES)
    width = check_rows({"x": x, "residual": residual}, {"weight": weight})
    if launch_plan.is_empty(outputs):
        return None
    tile = choose(row_tile(width, RESIDENT))
    x, residual, *kept = merged((x, residual, *(out for out in outputs if out is not None)))
    into = [None if out is None else kept.pop(0) for out in (normed, total)]
    offset = float(arguments.get("offset", 0.0))
    gain = gain_or(x, "weight", weight, width)
    constants = (width, tile.rows, tile.block, mode, weight is not None, offset != 0.0)
    return launch_plan.launch(
        kernel(add_rms_norm, **tile.hints),
        row_grid(x, tile.rows),
        (
            *(x, residual, gain, *(x if out is None else out for out in into)),
            *(float(arguments["eps"]), offset, *constants),
            *(out is not None for out in into),
        ),
    )


def samples() -> list[Sample]:
    """Those of RMSNorm, and one where the sum has no user."""

    def outputs(x: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
        return torch.empty_like(x, dtype=dtype), torch.empty_like(x)

    both = norm_samples(outputs, ("x", "residual"))
    _, arguments, (normed, _) = both[0]
    return [*both, ("sum_unused", arguments, (normed, None))]
