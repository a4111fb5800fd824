"""Plans of kernels for tests, from meta tensors."""

from __future__ import annotations

import importlib
from typing import Any

import torch

from tile_backend.lowering.kernels.launch_plan import Launch


def plan(op: str, arguments: dict[str, Any], *outputs: torch.Tensor | None) -> Launch | None:
    module = importlib.import_module(f"tile_backend.lowering.kernels.{op}")
    found: Launch | None = module.plan(arguments, outputs, "sm_90")
    return found


def meta(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")
