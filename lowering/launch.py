"""One call of an op: its cuTile kernel on the current CUDA stream, or else its reference.

CUDA tensors go to `kernel_launch`. Other devices, and whatever a kernel refuses, get the op's
reference copied into the outputs; a refusal is warned about once per op and reason. Nothing of
cuda.tile is imported before the first CUDA launch.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.autograd import profiler

from tile_backend.lowering import composition, custom_op, failure, profiled, reference
from tile_backend.lowering.kernel_launch import KernelFallbackWarning, calls_of, warn_once

__all__ = ["KernelFallbackWarning", "Outputs", "launch", "launcher"]

Outputs = Sequence[torch.Tensor | None]


def launcher(name: str) -> Callable[..., Any]:
    """The function that compiled code calls for op `name`, see launch_abi1."""
    record = record_of(name)
    if record.op.composed:
        return _composed(record)
    names = record.signature.names
    calls = calls_of(name, names)

    def fill(given: tuple[Any, ...]) -> None:
        if not calls.launched(given):
            arguments = dict(zip(names, given[: len(names)], strict=True))
            reference.into(record.op, arguments, given[len(names) :])

    def launch_one(*values: Any, out: torch.Tensor) -> torch.Tensor:
        given = (*values, out)
        if profiler._is_profiler_enabled:
            profiled.recorded(name, lambda: fill(given))
        elif not calls.newest(given):
            fill(given)
        return out

    def launch_several(*values: Any) -> None:
        if profiler._is_profiler_enabled:
            profiled.recorded(name, lambda: fill(values))
        elif not calls.newest(values):
            fill(values)

    return launch_one if record.signature.results == 1 else launch_several


def launch(record: custom_op.Record, arguments: Mapping[str, Any], outputs: Outputs) -> None:
    """Fill `outputs`, laid out as `Op.outputs` promises, or None for a result nobody reads.

    arguments: all of the op's, by name, in schema order.
    """
    if record.op.composed:
        fill = functools.partial(composition.on_kernels, record, arguments, outputs, launch)
        composition.or_reference(record, arguments, outputs, fill)
        return
    calls = calls_of(record.op.name, record.signature.names)
    if not calls.launched((*arguments.values(), *outputs)):
        reference.into(record.op, arguments, outputs)


def by_reference(name: str, error: Exception) -> Callable[..., Any]:
    """The same as `launcher`, where that fails."""
    record = record_of(name)
    names = record.signature.names
    warn_once(name, failure.said(error))

    def fill(given: tuple[Any, ...]) -> None:
        arguments = dict(zip(names, given[: len(names)], strict=True))
        reference.into(record.op, arguments, given[len(names) :])

    def compute_one(*values: Any, out: torch.Tensor) -> torch.Tensor:
        fill((*values, out))
        return out

    def compute_several(*values: Any) -> None:
        fill(values)

    return compute_one if record.signature.results == 1 else compute_several


def _composed(record: custom_op.Record) -> Callable[..., Any]:
    """The function of an op that is made of others: the same calls, each launched on its own."""
    names = record.signature.names

    def fill(given: tuple[Any, ...]) -> None:
        launch(record, dict(zip(names, given[: len(names)], strict=True)), given[len(names) :])

    def compose_one(*values: Any, out: torch.Tensor) -> torch.Tensor:
        if profiler._is_profiler_enabled:
            profiled.recorded(record.op.name, lambda: fill((*values, out)))
        else:
            fill((*values, out))
        return out

    def compose_several(*values: Any) -> None:
        if profiler._is_profiler_enabled:
            profiled.recorded(record.op.name, lambda: fill(values))
        else:
            fill(values)

    return compose_one if record.signature.results == 1 else compose_several


def record_of(name: str) -> custom_op.Record:
    """The op of that name.

    A process that loads compiled code from a cache may not have declared any fusion yet.
    """
    try:
        return custom_op.record(name)
    except KeyError:
        # By name: lowering is handed its fusions, but compiled code comes without anybody to do it.
        custom_op.define_each(importlib.import_module("tile_backend.registry").known_fusions())
    try:
        return custom_op.record(name)
    except KeyError:
        raise AttributeError(
            f"compiled code calls torch.ops.tilegym.{name}, which no fusion in this process"
            " declares; import the module that registers it (tile_backend.register) before running"
            " the code"
        ) from None
