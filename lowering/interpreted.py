"""One call of an op on CPU tensors: its real cuTile kernel, run by the interpreter.

`tilegym.kernels="interpret"` puts the overload `torch.ops.tilegym.<op>.interpreted` into graphs,
whose implementation ends here. What a kernel does not cover runs as the op's reference, with one
warning; a kernel that breaks a rule is an error. Nothing of cuda.tile is imported before.
"""

from __future__ import annotations

import functools
import importlib
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from tile_backend.lowering import launch_recipe, reference
from tile_backend.lowering.kernel_launch import KernelFallbackWarning

if TYPE_CHECKING:
    from tile_backend.lowering.custom_op import Record

ARCHITECTURE = "sm_90"
"""Whose tile sizes the plans choose."""


def run(
    record: Record, arguments: Mapping[str, Any], outputs: Sequence[torch.Tensor | None]
) -> None:
    """Fill `outputs`, laid out as `Op.outputs` promises, or None for a result nobody reads.

    arguments: all of the op's, by name, in schema order. Raises the interpreter's KernelFault.
    """
    if record.op.composed:
        from tile_backend.lowering import composition  # imports what imports this module

        composition.on_kernels(record, arguments, outputs, run)
        return
    from tile_backend.lowering.interpreter.faults import UnsupportedKernel
    from tile_backend.lowering.interpreter.launch import interpret
    from tile_backend.lowering.kernels.launch_plan import KernelLimit

    name, values = record.op.name, (*arguments.values(), *outputs)
    error = importlib.import_module("cuda.tile").TileError
    try:
        described = launch_recipe.describe(values)
        recipe = launch_recipe.recipe(name, record.signature.names, described, ARCHITECTURE)
        if recipe is not None:
            interpret(recipe.grid, recipe.kernel, recipe.arguments(values))
    except (KernelLimit, launch_recipe.NoKernelError, UnsupportedKernel, error) as refusal:
        _warn_once(name, str(refusal))
        reference.into(record.op, arguments, outputs)


@functools.cache
def _warn_once(op: str, reason: str) -> None:
    warnings.warn(
        f"torch.ops.tilegym.{op} runs its PyTorch reference, not its interpreted kernel: {reason}",
        KernelFallbackWarning,
        stacklevel=2,
    )
