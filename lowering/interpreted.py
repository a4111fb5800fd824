"""One call of an op on CPU tensors: its real cuTile kernel, run by the interpreter.

`tilegym.kernels="interpret"` puts the overload `torch.ops.tilegym.<op>.interpreted` into graphs,
whose implementation ends here. What a kernel does not cover runs as the op's reference, with one
warning; a kernel that breaks a rule is an error. Nothing of cuda.tile is imported before.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from tile_backend.lowering import failure, kernel_launch, launch_recipe, reference

if TYPE_CHECKING:
    from tile_backend.lowering.custom_op import Record

ARCHITECTURE = "sm_90"
"""Whose tile sizes the plans choose."""
NOT_INTERPRETED = "runs its PyTorch reference, not its interpreted kernel"
Outputs = Sequence[torch.Tensor | None]


def run(
    record: Record, arguments: Mapping[str, Any], outputs: Sequence[torch.Tensor | None]
) -> None:
    """Fill `outputs`, laid out as `Op.outputs` promises, or None for a result nobody reads.

    arguments: all of the op's, by name, in schema order. Raises the interpreter's KernelFault.
    """
    if record.op.composed:
        from tile_backend.lowering import composition  # imports what imports this module

        fill = functools.partial(composition.on_kernels, record, arguments, outputs, run)
    else:
        fill = functools.partial(interpret, record, arguments, outputs)
    try:
        fill()
    except Exception as refusal:
        if failure.is_final(refusal) or is_fault(refusal):
            raise
        kernel_launch.warn_once(record.op.name, said(refusal), NOT_INTERPRETED)
        reference.into(record.op, arguments, outputs)


def interpret(record: Record, arguments: Mapping[str, Any], outputs: Outputs) -> None:
    """The kernel of an op, if there is something to compute."""
    from tile_backend.lowering.interpreter import launch

    values = (*arguments.values(), *outputs)
    described = launch_recipe.describe(values)
    names = record.signature.names
    recipe = launch_recipe.recipe(record.op.name, names, described, ARCHITECTURE)
    if recipe is not None:
        launch.interpret(recipe.grid, recipe.kernel, recipe.arguments(values))


def is_fault(error: Exception) -> bool:
    """Whether a kernel broke a rule: to find that out is what kernels are interpreted for."""
    from tile_backend.lowering.interpreter.faults import KernelFault

    return isinstance(error, KernelFault)


def said(refusal: Exception) -> str:
    """The sentence of what is meant as one, else class and message."""
    from tile_backend.lowering.interpreter.faults import UnsupportedKernel

    known = (*kernel_launch.REFUSALS, UnsupportedKernel)
    meant = isinstance(refusal, known) or type(refusal).__module__.startswith("cuda.tile")
    return str(refusal) if meant else failure.said(refusal)
