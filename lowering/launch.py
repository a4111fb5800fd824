"""One call of an op: its cuTile kernel on the current CUDA stream, or else its reference.

CUDA tensors go to `kernel_launch`. Other devices, and whatever a kernel refuses, get the op's
reference copied into the outputs; a refusal is warned about once per op and reason. Nothing of
cuda.tile is imported before the first CUDA launch.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from tile_backend.lowering import composition, custom_op, reference
from tile_backend.lowering.kernel_launch import KernelFallbackWarning, calls_of

__all__ = ["KernelFallbackWarning", "Outputs", "launch", "launcher"]

Outputs = Sequence[torch.Tensor | None]


def launcher(name: str) -> Callable[..., Any]:
    """The function that compiled code calls for op `name`, see launch_abi1."""
    record = record_of(name)
    if record.op.composed:
        return _composed(record)
    names = record.signature.names
    calls = calls_of(name, names)

    def launch_one(*values: Any, out: torch.Tensor) -> torch.Tensor:
        given = (*values, out)
        if not (calls.newest(given) or calls.launched(given)):
            reference.into(record.op, dict(zip(names, values, strict=True)), (out,))
        return out

    def launch_several(*values: Any) -> None:
        if not (calls.newest(values) or calls.launched(values)):
            arguments = dict(zip(names, values[: len(names)], strict=True))
            reference.into(record.op, arguments, values[len(names) :])

    return launch_one if record.signature.results == 1 else launch_several


def launch(record: custom_op.Record, arguments: Mapping[str, Any], outputs: Outputs) -> None:
    """Fill `outputs`, laid out as `Op.outputs` promises, or None for a result nobody reads.

    arguments: all of the op's, by name, in schema order.
    """
    if record.op.composed:
        composition.on_kernels(record, arguments, outputs, launch)
        return
    calls = calls_of(record.op.name, record.signature.names)
    if not calls.launched((*arguments.values(), *outputs)):
        reference.into(record.op, arguments, outputs)


def _composed(record: custom_op.Record) -> Callable[..., Any]:
    """The function of an op that is made of others: the same calls, each launched on its own."""
    names = record.signature.names

    def compose_one(*values: Any, out: torch.Tensor) -> torch.Tensor:
        launch(record, dict(zip(names, values, strict=True)), (out,))
        return out

    def compose_several(*values: Any) -> None:
        arguments = dict(zip(names, values[: len(names)], strict=True))
        launch(record, arguments, values[len(names) :])

    return compose_one if record.signature.results == 1 else compose_several


def record_of(name: str) -> custom_op.Record:
    """The op of that name.

    A process that loads compiled code from a cache may not have declared any fusion yet.
    """
    try:
        return custom_op.record(name)
    except KeyError:
        # By name: lowering is handed its fusions, but compiled code comes without anybody to do it.
        custom_op.define(importlib.import_module("tile_backend.registry").known_fusions())
    try:
        return custom_op.record(name)
    except KeyError:
        raise AttributeError(
            f"compiled code calls torch.ops.tilegym.{name}, which no fusion in this process"
            " declares; import the module that registers it (tile_backend.register) before running"
            " the code"
        ) from None
