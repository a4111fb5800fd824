"""One launch of an op: its cuTile kernel on the current CUDA stream, or else its reference.

CUDA tensors go to `lowering.kernels.<op>.plan` and `ct.launch`. Other devices, and whatever a
kernel refuses, get the op's reference copied into the outputs; a refusal is warned about once per
op and reason. Nothing of cuda.tile is imported before the first CUDA launch.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from tile_backend.lowering import custom_op, launch_recipe, reference

Outputs = Sequence[torch.Tensor | None]
INSTALL = "install what is missing with: pip install 'tile-backend[kernels]'"


class KernelFallbackWarning(RuntimeWarning):
    """A kernel could not run, and the op's PyTorch reference ran in its place."""


def launcher(name: str) -> Callable[..., Any]:
    """The function that compiled code calls for op `name`, see launch_abi1."""
    record = _declared(name)
    names = record.signature.names

    def launch_one(*values: Any, out: torch.Tensor) -> torch.Tensor:
        launch(record, dict(zip(names, values, strict=True)), (out,))
        return out

    def launch_several(*values: Any) -> None:
        arguments = dict(zip(names, values[: len(names)], strict=True))
        launch(record, arguments, values[len(names) :])

    return launch_one if record.signature.results == 1 else launch_several


def launch(record: custom_op.Record, arguments: Mapping[str, Any], outputs: Outputs) -> None:
    """Fill `outputs`, laid out as `Op.outputs` promises, or None for a result nobody reads.

    arguments: all of the op's, by name, in schema order.
    """
    device = next(iter(arguments.values())).device
    if device.type != "cuda" or not _launched(record.op.name, arguments, outputs, device):
        reference.into(record.op, arguments, outputs)


def _declared(name: str) -> custom_op.Record:
    """A process that loads compiled code from a cache may not have declared any fusion yet."""
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


@dataclasses.dataclass(frozen=True)
class _Tools:
    """What a launch needs of cuda.tile, and the errors after which the reference runs."""

    launch: Callable[..., None]
    refusals: tuple[type[Exception], ...]


@functools.cache
def _tools() -> _Tools | str:
    try:
        tile = importlib.import_module("cuda.tile")
    except ImportError as error:
        return f"cuda-tile cannot be imported ({error}); {INSTALL}"
    limit = importlib.import_module("tile_backend.lowering.kernels.launch_plan").KernelLimit
    unbuilt = importlib.import_module("tile_backend.lowering.kernels.build_error").BuildError
    refusals = (limit, unbuilt, launch_recipe.NoKernelError, tile.TileError, FileNotFoundError)
    return _Tools(tile.launch, refusals)


@functools.cache
def _architecture(device: int) -> str:
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm_{major}{minor}"


def _launched(
    name: str, arguments: Mapping[str, Any], outputs: Outputs, device: torch.device
) -> bool:
    """False where the reference has to run instead."""
    tools = _tools()
    if isinstance(tools, str):
        _warn_once(name, tools)
        return False
    values = (*arguments.values(), *outputs)
    arch = _architecture(device.index)
    try:
        recipe = launch_recipe.recipe(name, tuple(arguments), launch_recipe.describe(values), arch)
        if recipe is not None:
            with _current(device.index):
                stream = torch._C._cuda_getCurrentRawStream(device.index)
                tools.launch(stream, recipe.grid, recipe.kernel, recipe.arguments(values))
    except tools.refusals as refusal:
        _warn_once(name, _sentence(refusal))
        return False
    return True


def _sentence(refusal: Exception) -> str:
    return f"{refusal}; {INSTALL}" if isinstance(refusal, FileNotFoundError) else str(refusal)


def _current(device: int) -> contextlib.AbstractContextManager[Any]:
    """Makes `device` current; nothing to do in the usual case that it is."""
    if device == torch.cuda.current_device():
        return contextlib.nullcontext()
    return torch.cuda.device(device)


@functools.cache
def _warn_once(name: str, reason: str) -> None:
    warnings.warn(
        f"torch.ops.tilegym.{name} runs its PyTorch reference, not a kernel: {reason}",
        KernelFallbackWarning,
        stacklevel=2,
    )
