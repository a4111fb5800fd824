"""Which kernel runs at a site, and how it is launched: plain data for reports.

Read off the launch plan at the sizes seen at capture; a launch at other sizes may have another grid
and, where a plan decides by size, other constants.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tile_backend.lowering
from tile_backend.lowering import composition, gate, meta
from tile_backend.lowering.launch_recipe import View, describe, recipe

if TYPE_CHECKING:
    from tile_backend.lowering.legality import Call


@dataclasses.dataclass(frozen=True)
class KernelUse:
    """One kernel of one op of ours.

    op:        of `torch.ops.tilegym`, "attention_split".
    kernel:    the kernel function's name; mostly that of the op.
    source:    "lowering/kernels/rms_norm.py:28", relative to the project.
    arch:      the GPU the plan is for, "sm_90".
    grid:      blocks per axis.
    hints:     what the compiler is told: num_worker_warps, occupancy, ...
    constants: the kernel parameters that are numbers, by name: tile sizes and modes.
    measured:  the stored configuration that was taken, "rows=2,block=1024,..."; "" as planned.
    """

    op: str
    kernel: str
    source: str
    arch: str
    grid: tuple[int, int, int]
    hints: Mapping[str, object]
    constants: Mapping[str, object]
    measured: str = ""

    def __str__(self) -> str:
        """`rms_norm (lowering/kernels/rms_norm.py:28) grid 4x1x1 num_worker_warps=4 BLOCK=1024`"""
        grid = "x".join(map(str, self.grid))
        settings = " ".join(f"{k}={v}" for k, v in {**self.hints, **self.constants}.items())
        tuned = " (measured fastest)" if self.measured else ""
        return f"{self.kernel} ({self.source}) grid {grid} {settings}".rstrip() + tuned


def uses(call: Call) -> tuple[KernelUse, ...]:
    """The kernels that the op of a call, or its steps, launch; none where there is no element.

    Raises what a plan raises; the gate has asked before.
    """
    arch = gate.architecture(gate.device_of(call))
    return tuple(use for launched in call.launched for use in uses_of(launched, arch))


def uses_of(call: Call, arch: str) -> Iterator[KernelUse]:
    values = [meta.like(value) for value in (*call.arguments.values(), *call.outputs)]
    for op, names, given in composition.called(call.op.name, tuple(call.arguments), values):
        found = recipe(op, names, describe(given), arch)
        if found is None:
            continue
        function = found.kernel._pyfunc
        parameters = zip(inspect.signature(function).parameters, found.parameters, strict=True)
        constants = {name: p for name, p in parameters if not isinstance(p, View)}
        hints = dict(found.kernel._hints)
        yield KernelUse(
            *(op, found.kernel.name, source_of(function), arch, found.grid, hints, constants),
            measured=found.measured.text if found.measured else "",
        )


def source_of(function: Any) -> str:
    """Where a kernel function is written, relative to the project where it is ours."""
    code = function.__code__
    path = Path(code.co_filename)
    root = Path(tile_backend.lowering.__path__[0]).parent
    try:
        shown = path.relative_to(root).as_posix()
    except ValueError:  # a user's own kernel
        shown = path.name
    return f"{shown}:{code.co_firstlineno}"
