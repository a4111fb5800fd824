"""The gradients of gelu(gate) * up, element by element, exact or with the tanh approximation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cuda.tile as ct
import torch

from tile_backend.lowering.kernels import launch_plan
from tile_backend.lowering.kernels.activations import gelu_parts, gelu_tanh_parts
from tile_backend.lowering.kernels.configuration import Choose, as_planned
from tile_backend.lowering.kernels.gated import load_tile, tile_index, tile_shape
from tile_backend.lowering.kernels.gated_grad import (
    gated_grad_samples,
    plan_gated_grad,
    store_gradients,
)
from tile_backend.lowering.kernels.gelu_mul import APPROXIMATE
from tile_backend.lowering.kernels.launch_plan import Launch, Sample


def gelu_mul_grad(
    dout: ct.Array,
    gate: ct.Array,
    up: ct.Array,
    dgate: ct.Array,
    dup: ct.Array,
    ROWS: ct.Constant[int],
    COLUMNS: ct.Constant[int],
    TANH: ct.Constant[bool],
    OF_GATE: ct.Constant[bool],
    OF_UP: ct.Constant[bool],
) -> None:
    """Views of gated.flattened; a gradient not wanted is any array."""
    at = tile_index(dgate, COLUMNS)
    x = load_tile(gate, at, tile_shape(dgate, ROWS, COLUMNS))
    if TANH:
        share, density = gelu_tanh_parts(x)
    else:
        share, density = gelu_parts(x)
    store_gradients(dout, up, dgate, dup, at, x * share, share + x * density, OF_GATE, OF_UP)


def plan(
    arguments: Mapping[str, Any],
    outputs: tuple[torch.Tensor | None, ...],
    arch: str,
    choose: Choose = as_planned,
) -> Launch | None:
    """See launch_plan. dout, gate and up of one shape, any strides; outputs: (like gate, like up),
    empty or None where not wanted.
    """
    tanh = launch_plan.choose("approximate", arguments.get("approximate", "none"), APPROXIMATE)
    return plan_gated_grad(gelu_mul_grad, arguments, outputs, (), (tanh == 1,), choose)


def samples() -> list[Sample]:
    """Both forms."""
    return gated_grad_samples(({"approximate": "none"}, {"approximate": "tanh"}))
