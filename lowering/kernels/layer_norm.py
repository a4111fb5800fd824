"""LayerNorm over the last dimension: mean, then variance of the centred rows, in registers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cuda.tile as ct
import torch

from tile_backend.lowering.kernels import launch_plan
from tile_backend.lowering.kernels.compiled import kernel
from tile_backend.lowering.kernels.configuration import Choose, as_planned
from tile_backend.lowering.kernels.launch_plan import Launch, Sample
from tile_backend.lowering.kernels.norm_plan import check_rows, gain_or
from tile_backend.lowering.kernels.row_layout import merged, row_grid, row_tile
from tile_backend.lowering.kernels.rows import (
    load_rows,
    load_vector,
    promoted,
    rounded,
    row_index,
    row_mean,
    row_mean_of_any,
    store_piece,
    within_row,
)

ONCE, BEFORE_WEIGHT, EVERY_OP = range(3)
MODES = {
    "once": ONCE,
    "by_hand": ONCE,
    "before_weight": BEFORE_WEIGHT,
    "every_op": EVERY_OP,
    "every_op_variance": EVERY_OP,
    "divided": BEFORE_WEIGHT,
    "divided_variance": BEFORE_WEIGHT,
}
"""See rms.ROUNDING for "divided"."""

RESIDENT = {4: 4, 6: 3}
"""Pieces of a row -> quarters of 32 warps; see row_layout.row_tile."""


def centred_rows(
    pieces: tuple[ct.Tile, ...], N: int, ROUNDING: int, dtype: ct.DType
) -> tuple[ct.Tile, ...]:
    """x - mean(x), and 0 beyond the N features."""
    mean = row_mean_of_any(pieces, N)
    if ROUNDING == EVERY_OP:
        mean = rounded(mean, dtype)
    centred: tuple[ct.Tile, ...] = ()
    for j in ct.static_iter(range(len(pieces))):
        piece = pieces[j] - mean
        if ROUNDING == EVERY_OP:
            piece = rounded(piece, dtype)
        centred = (*centred, within_row(piece, j, N))
    return centred


def inverse_deviation(
    centred: tuple[ct.Tile, ...], eps: float, N: int, ROUNDING: int, dtype: ct.DType
) -> ct.Tile:
    """rsqrt(mean(centred ** 2) + eps), float32 [ROWS, 1]."""
    squares: tuple[ct.Tile, ...] = ()
    for piece in ct.static_iter(centred):
        square = piece * piece
        if ROUNDING == EVERY_OP:
            square = rounded(square, dtype)
        squares = (*squares, square)
    variance = row_mean(squares, N)
    if ROUNDING == EVERY_OP:
        scale = rounded(ct.rsqrt(rounded(rounded(variance, dtype) + eps, dtype)), dtype)
    else:
        scale = ct.rsqrt(variance + eps)
    return scale


def layer_norm(
    x: ct.Array,
    weight: ct.Array,
    bias: ct.Array,
    out: ct.Array,
    eps: float,
    N: ct.Constant[int],
    ROWS: ct.Constant[int],
    BLOCK: ct.Constant[int],
    ROUNDING: ct.Constant[int],
    WEIGHTED: ct.Constant[bool],
    BIASED: ct.Constant[bool],
) -> None:
    """Views of row_layout.merged; weight and bias [N], or anything when absent."""
    at = row_index(x)
    pieces = load_rows(x, at, N, ROWS, BLOCK)
    centred = centred_rows(pieces, N, ROUNDING, x.dtype)
    scale = inverse_deviation(centred, eps, N, ROUNDING, x.dtype)
    for j in ct.static_iter(range(len(pieces))):
        unit = centred[j] * scale
        if ROUNDING != ONCE:
            unit = rounded(unit, x.dtype)
        if WEIGHTED:
            unit = unit * load_vector(weight, j, BLOCK)[None, :]
            if ROUNDING != ONCE:
                unit = rounded(unit, promoted(x.dtype, weight.dtype))
        if BIASED:
            unit = unit + load_vector(bias, j, BLOCK)[None, :]
        store_piece(out, at, j, unit)


def plan(
    arguments: Mapping[str, Any],
    outputs: tuple[torch.Tensor | None, ...],
    arch: str,
    choose: Choose = as_planned,
) -> Launch | None:
    """See launch_plan. x [..., D], any strides; weight and bias [D] or None; outputs: (like x,)."""
    x, weight, bias = (arguments[name] for name in ("x", "weight", "bias"))
    (out,) = outputs
    mode = launch_plan.choose("rounding", arguments.get("rounding", "once"), MODES)
    width = check_rows({"x": x}, {"weight": weight, "bias": bias})
    if out is None or launch_plan.is_empty(outputs):
        return None
    tile = choose(row_tile(width, RESIDENT))
    out, x = merged((out, x))
    vectors = (gain_or(x, "weight", weight, width), gain_or(x, "bias", bias, width))
    constants = (width, tile.rows, tile.block, mode, weight is not None, bias is not None)
    return launch_plan.launch(
        kernel(layer_norm, **tile.hints),
        row_grid(out, tile.rows),
        (x, *vectors, out, float(arguments["eps"]), *constants),
    )


def samples() -> list[Sample]:
    """Every rounding mode, with and without weight and bias, ragged and whole row lengths."""
    half, full = torch.bfloat16, torch.float32
    rows = [
        ("once", (64, 6144), half, half, "once"),
        ("before_weight", (64, 4096), half, half, "before_weight"),
        ("every_op", (2, 64, 1000), half, half, "every_op"),
        ("float32_affine", (64, 1024), full, full, "before_weight"),
        ("no_bias", (64, 5120), half, None, "once"),
        ("large", (64, 8192), half, half, "once"),
        ("plain", (64, 11008), None, None, "once"),
        ("widest", (4, 32768), half, half, "once"),
    ]
    samples: list[Sample] = []
    for name, shape, weight, bias, rounding in rows:
        x = torch.empty(shape, dtype=half, device="meta")
        arguments: dict[str, Any] = {"x": x, "eps": 1e-5, "rounding": rounding}
        for gain, dtype in (("weight", weight), ("bias", bias)):
            vector = None if dtype is None else x.new_empty(shape[-1:], dtype=dtype)
            arguments[gain] = vector
        result = full if weight is full and rounding != "once" else half
        samples.append((name, arguments, (torch.empty_like(x, dtype=result),)))
    return samples
