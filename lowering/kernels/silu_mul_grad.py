"""The gradients of silu(gate) * up, element by element."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cuda.tile as ct
import torch

from tile_backend.lowering.kernels.activations import sigmoid
from tile_backend.lowering.kernels.configuration import Choose, as_planned
from tile_backend.lowering.kernels.gated import load_tile, tile_index, tile_shape
from tile_backend.lowering.kernels.gated_grad import (
    gated_grad_samples,
    plan_gated_grad,
    store_gradients,
)
from tile_backend.lowering.kernels.launch_plan import Launch, Sample


def silu_mul_grad(
    dout: ct.Array,
    gate: ct.Array,
    up: ct.Array,
    dgate: ct.Array,
    dup: ct.Array,
    alpha: float,
    ROWS: ct.Constant[int],
    COLUMNS: ct.Constant[int],
    SHARPENED: ct.Constant[bool],
    OF_GATE: ct.Constant[bool],
    OF_UP: ct.Constant[bool],
) -> None:
    """Views of gated.flattened; alpha is 1 when not SHARPENED; a gradient not wanted is any array.

    The slope of x * s with s = sigmoid(alpha * x) is s * (1 + alpha * x * (1 - s)).
    """
    at = tile_index(dgate, COLUMNS)
    x = load_tile(gate, at, tile_shape(dgate, ROWS, COLUMNS))
    inner = x
    if SHARPENED:
        inner = x * alpha
    share = sigmoid(inner)
    slope = share * (1.0 + inner * (1.0 - share))
    store_gradients(dout, up, dgate, dup, at, x * share, slope, OF_GATE, OF_UP)


def plan(
    arguments: Mapping[str, Any],
    outputs: tuple[torch.Tensor | None, ...],
    arch: str,
    choose: Choose = as_planned,
) -> Launch | None:
    """See launch_plan. dout, gate and up of one shape, any strides; outputs: (like gate, like up),
    empty or None where not wanted.
    """
    alpha = float(arguments.get("alpha", 1.0))
    return plan_gated_grad(silu_mul_grad, arguments, outputs, (alpha,), (alpha != 1.0,), choose)


def samples() -> list[Sample]:
    """A plain and a sharpened gate."""
    return gated_grad_samples(({"alpha": 1.0}, {"alpha": 1.702}))
