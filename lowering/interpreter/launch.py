"""`interpret(grid, kernel, args)`: what `cuda.tile.launch` does on a GPU, on CPU tensors.

Blocks run in groups, all lanes of a group at once. How many does not change results, only speed,
and neither does the order of the groups; tests use both to find kernels that depend on luck.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import torch

from tile_backend.lowering.interpreter import adapter, aliasing, arguments, control, families
from tile_backend.lowering.interpreter.frame import Frame, Run
from tile_backend.lowering.interpreter.memory import Memory
from tile_backend.lowering.interpreter.program import Program, TileType, Value
from tile_backend.lowering.interpreter.provenance import Accessed, accessed
from tile_backend.lowering.kernels.signature import parameter_annotations

ELEMENTS_AT_ONCE = 2**18
"""Lanes times elements of the largest tile: about what a core's cache holds."""
MOST_LANES = 512


def interpret(
    grid: Sequence[int],
    kernel: Any,
    args: Sequence[Any],
    *,
    blocks_at_once: int | None = None,
    reverse: bool = False,
    signature: Any = None,
) -> None:
    """Run a kernel on CPU tensors; results are written in place.

    grid, kernel, args: as for `cuda.tile.launch`: up to three numbers of blocks, a
        `cuda.tile.kernel`, and one argument per parameter (tensors, numbers, tuples, lists of
        tensors, constants).
    blocks_at_once: how many run together; by default what fits the cache.
    reverse: the last blocks first.
    signature: a KernelSignature whose promises are checked, in place of the inferred one.

    Raises KernelFault where the kernel breaks a rule, UnsupportedKernel where it cannot be run,
    cuda.tile.TileError where it does not compile, TypeError and ValueError for arguments that a
    launch would refuse, or that are not on the CPU.
    """
    assert families.FAMILIES, "the handlers are registered"
    names, annotations = adapter.parameter_names(kernel), parameter_annotations(kernel)
    if len(args) != len(names):
        raise TypeError(
            f"the kernel takes {len(names)} arguments ({', '.join(names)}), not {len(args)}"
        )
    if signature is None:
        signature = arguments.signature_of(names, annotations, args)
    program = adapter.build(kernel, signature)
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        memory, values = _bound(program, list(arguments.leaves(names, annotations, args)))
        _track(program, memory)
        _run(Run(program, _grid(grid), memory), values, blocks_at_once, reverse)


@functools.lru_cache(maxsize=adapter.PROGRAMS_KEPT)
def accessed_by(program: Program) -> Accessed:
    """`provenance.accessed`, remembered."""
    return accessed(program)


def _grid(grid: Sequence[int]) -> tuple[int, int, int]:
    if not 1 <= len(grid) <= 3 or any(n < 1 for n in grid):
        raise ValueError(f"a grid has one to three numbers of blocks, at least 1 each, not {grid}")
    x, y, z = (*grid, 1, 1)[:3]
    return x, y, z


def _bound(
    program: Program, leaves: list[tuple[str, Any]]
) -> tuple[Memory, list[tuple[Value, torch.Tensor]]]:
    """The memory of the launch, and a tensor for every parameter of the program."""
    memory, bound = Memory(), []
    for (name, values), (_, arg) in zip(program.parameters, leaves, strict=True):
        for value, tensor in zip(values, arguments.flattened(arg, memory, name), strict=True):
            held = tensor.to(value.element.held)
            if not held.is_floating_point() and held != tensor:
                raise OverflowError(f"`{name}`: {int(tensor)} does not fit {value.element}")
            bound.append((value, held))
    return memory, bound


def _track(program: Program, memory: Memory) -> None:
    """Check that arrays are apart, and have accesses remembered where the kernel writes."""
    found = accessed_by(program)
    known = {name for name, _ in program.parameters}
    written, used = {}, set()
    for segment in memory.segments:
        for array in segment.arrays:
            # An item of a list, `xs[0]`, is accessed where its list is.
            parameter = array.name if array.name in known else array.name.rsplit("[", 1)[0]
            if parameter in found.used:
                used.add(array.name)
            if parameter in found.written:
                written[array.name] = found.written[parameter]
                segment.tracked = True
    aliasing.check(program.kernel, memory.segments, written, used)


def _run(
    run: Run, values: list[tuple[Value, torch.Tensor]], blocks_at_once: int | None, reverse: bool
) -> None:
    lanes = blocks_at_once or _lanes(run.program)
    groups = list(torch.arange(math.prod(run.grid)).split(lanes))
    for blocks in reversed(groups) if reverse else groups:
        frame = Frame(run, blocks.flip(0) if reverse else blocks)
        for value, tensor in values:
            frame.put(value, tensor)
        control.run_block(frame, run.program.body, None)


def _lanes(program: Program) -> int:
    """How many blocks to run together by default."""
    largest = 1
    for op in program.body.walk():
        for result in op.results:
            if isinstance(result.type, TileType):
                largest = max(largest, math.prod(result.type.shape))
    return max(1, min(MOST_LANES, ELEMENTS_AT_ONCE // largest))
