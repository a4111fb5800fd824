"""silu(gate) * up, element by element."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cuda.tile as ct
import torch

from tile_backend.lowering.kernels import launch_plan
from tile_backend.lowering.kernels.activations import sigmoid
from tile_backend.lowering.kernels.configuration import Choose, as_planned
from tile_backend.lowering.kernels.gated import (
    EVERY_OP,
    MODES,
    ONCE,
    gated_samples,
    load_tile,
    plan_gated,
    tile_index,
    tile_shape,
)
from tile_backend.lowering.kernels.launch_plan import Launch, Sample
from tile_backend.lowering.kernels.rows import rounded


def silu(gate: ct.Tile, alpha: float, ROUNDING: int, SHARPENED: bool, dtype: ct.DType) -> ct.Tile:
    """gate * sigmoid(alpha * gate); with EVERY_OP each of the three steps is rounded."""
    inner = gate
    if SHARPENED:
        inner = gate * alpha
    if ROUNDING == EVERY_OP:
        inner = rounded(sigmoid(rounded(inner, dtype)), dtype)
    else:
        inner = sigmoid(inner)
    return gate * inner


def silu_mul(
    gate: ct.Array,
    up: ct.Array,
    out: ct.Array,
    alpha: float,
    ROWS: ct.Constant[int],
    COLUMNS: ct.Constant[int],
    ROUNDING: ct.Constant[int],
    SHARPENED: ct.Constant[bool],
) -> None:
    """Views of gated.flattened; alpha is 1 when not SHARPENED."""
    at = tile_index(out, COLUMNS)
    shape = tile_shape(out, ROWS, COLUMNS)
    activation = silu(load_tile(gate, at, shape), alpha, ROUNDING, SHARPENED, gate.dtype)
    if ROUNDING != ONCE:
        activation = rounded(activation, gate.dtype)
    product = activation * load_tile(up, at, shape)
    ct.store(out, at, product.astype(out.dtype), allow_tma=False)


def plan(
    arguments: Mapping[str, Any],
    outputs: tuple[torch.Tensor | None, ...],
    arch: str,
    choose: Choose = as_planned,
) -> Launch | None:
    """See launch_plan. gate and up of one shape and dtype, any strides; outputs: (like gate,)."""
    mode = launch_plan.choose("rounding", arguments.get("rounding", "activation"), MODES)
    alpha = float(arguments.get("alpha", 1.0))
    return plan_gated(silu_mul, arguments, outputs, (alpha,), (mode, alpha != 1.0), choose)


def samples() -> list[Sample]:
    """Every rounding mode and a sharpened gate."""
    return gated_samples(
        (
            {"alpha": 1.0, "rounding": "activation"},
            {"alpha": 1.0, "rounding": "once"},
            {"alpha": 1.702, "rounding": "every_op"},
        )
    )
