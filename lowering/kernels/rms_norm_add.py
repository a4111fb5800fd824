"""RMSNorm, then the residual add: residual + norm(x) in one pass."""

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
from tile_backend.lowering.kernels.rms import inverse_rms, normed_dtype, normed_piece
from tile_backend.lowering.kernels.row_layout import merged, row_grid, row_tile
from tile_backend.lowering.kernels.rows import (
    load_piece,
    load_rows,
    rounded,
    row_index,
    store_piece,
)

RESIDENT = {4: 4, 6: 3, 8: 2}
"""Pieces of a row -> quarters of 32 warps; see row_layout.row_tile."""


def rms_norm_add(
    x: ct.Array,
    residual: ct.Array,
    weight: ct.Array,
    out: ct.Array,
    eps: float,
    offset: float,
    N: ct.Constant[int],
    ROWS: ct.Constant[int],
    BLOCK: ct.Constant[int],
    ROUNDING: ct.Constant[int],
    WEIGHTED: ct.Constant[bool],
    OFFSET: ct.Constant[bool],
) -> None:
    """Views of row_layout.merged; weight [N], or anything when not WEIGHTED."""
    at = row_index(x)
    pieces = load_rows(x, at, N, ROWS, BLOCK)
    scale = inverse_rms(pieces, eps, N, ROUNDING, x.dtype)
    dtype = normed_dtype(x.dtype, weight.dtype, ROUNDING, WEIGHTED)
    for j in ct.static_iter(range(len(pieces))):
        normed = normed_piece(
            pieces[j], scale, weight, j, offset, ROUNDING, WEIGHTED, OFFSET, x.dtype
        )
        theirs = load_piece(residual, at, j, ROWS, BLOCK)
        store_piece(out, at, j, theirs + rounded(normed, dtype))


def plan(
    arguments: Mapping[str, Any],
    outputs: tuple[torch.Tensor | None, ...],
    arch: str,
    choose: Choose = as_planned,
) -> Launch | None:
    """See launch_plan. x and residual [..., D], weight [D] or None; outputs: (like residual,)."""
    x, residual, weight = (arguments[name] for name in ("x", "residual", "weight"))
    (out,) = outputs
    mode = launch_plan.choose("rounding", arguments.get("rounding", "once"), MODES)
    width = check_rows({"x": x, "residual": residual}, {"weight": weight})
    if out is None or launch_plan.is_empty(outputs):
        return None
    tile = choose(row_tile(width, RESIDENT))
    out, x, residual = merged((out, x, residual))
    offset = float(arguments.get("offset", 0.0))
    gain = gain_or(x, "weight", weight, width)
    constants = (width, tile.rows, tile.block, mode, weight is not None, offset != 0.0)
    return launch_plan.launch(
        kernel(rms_norm_add, **tile.hints),
        row_grid(out, tile.rows),
        (x, residual, gain, out, float(arguments["eps"]), offset, *constants),
    )


def samples() -> list[Sample]:
    """Those of RMSNorm."""
    return norm_samples(lambda x, dtype: (torch.empty_like(x, dtype=dtype),), ("x", "residual"))
