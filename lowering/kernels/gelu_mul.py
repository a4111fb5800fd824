"""gelu(gate) * up, element by element, exact or with the tanh approximation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cuda.tile as ct
import torch

from tile_backend.lowering.kernels import launch_plan
from tile_backend.lowering.kernels.activations import (
    gelu,
    gelu_every_op,
    gelu_tanh,
    gelu_tanh_every_op,
)
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

APPROXIMATE = {"none": 0, "tanh": 1}


def gelu_mul(
    gate: ct.Array,
    up: ct.Array,
    out: ct.Array,
    ROWS: ct.Constant[int],
    COLUMNS: ct.Constant[int],
    ROUNDING: ct.Constant[int],
    TANH: ct.Constant[bool],
) -> None:
    """Views of gated.flattened."""
    at = tile_index(out, COLUMNS)
    shape = tile_shape(out, ROWS, COLUMNS)
    x = load_tile(gate, at, shape)
    if ROUNDING == EVERY_OP and TANH:
        activation = gelu_tanh_every_op(x, gate.dtype)
    elif ROUNDING == EVERY_OP:
        activation = gelu_every_op(x, gate.dtype)
    elif TANH:
        activation = gelu_tanh(x)
    else:
        activation = gelu(x)
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
    tanh = launch_plan.choose("approximate", arguments.get("approximate", "none"), APPROXIMATE)
    return plan_gated(gelu_mul, arguments, outputs, (), (mode, tanh == 1), choose)


def samples() -> list[Sample]:
    """Both forms in every rounding."""
    return gated_samples(
        (
            {"approximate": "none", "rounding": "activation"},
            {"approximate": "none", "rounding": "once"},
            {"approximate": "tanh", "rounding": "activation"},
            {"approximate": "tanh", "rounding": "once"},
            {"approximate": "tanh", "rounding": "every_op"},
            {"approximate": "none", "rounding": "every_op"},
        )
    )
