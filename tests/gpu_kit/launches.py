"""Makes a call on the GPU, by its kernel or not at all.

As a program it makes those that a checker of memory watches.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch

from tests import placed
from tests.gpu_kit.calls import Call, sanitized_calls
from tests.kernel_check import outputs_of
from tile_backend.lowering import launch
from tile_backend.lowering.custom_op import record
from tile_backend.lowering.kernel_launch import KernelFallbackWarning

GPU = "cuda"


def on_gpu(call: Call) -> tuple[dict[str, Any], list[torch.Tensor]]:
    """Arguments and results there."""
    values = placed.all_on(call.make(), GPU)
    return values, results(call.op, values)


def results(op: str, values: Mapping[str, Any]) -> list[torch.Tensor]:
    """Of the op's kernel. Raises KernelFallbackWarning where none ran."""
    outputs = outputs_of(record(op), values)
    with warnings.catch_warnings():
        warnings.simplefilter("error", KernelFallbackWarning)
        launch.launch(record(op), values, outputs)
    return outputs


if __name__ == "__main__":
    for watched in sanitized_calls():
        on_gpu(watched)
    torch.cuda.synchronize()
