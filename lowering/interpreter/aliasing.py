"""Arrays of one launch may not share elements if one of them is written: the compiler relies on it.

Arrays of one storage whose byte ranges overlap are compared element by element, so that the
interleaved halves of a packed tensor pass.
"""

from __future__ import annotations

import itertools

import torch

from tile_backend.lowering.interpreter.faults import FaultKind, KernelFault
from tile_backend.lowering.interpreter.memory import ArrayArgument, Segment
from tile_backend.lowering.interpreter.program import Source


def check(kernel: str, segments: list[Segment], written: dict[str, Source], used: set[str]) -> None:
    """Raise a KernelFault for two array arguments that share an element, one of them written.

    written, used: names of array arguments, with the line of a store.
    """
    for segment in segments:
        arrays = [array for array in segment.arrays if array.name in used]
        for one, other in itertools.combinations(arrays, 2):
            source = written.get(one.name) or written.get(other.name)
            if source is not None and share(one, other):
                text = (
                    f"`{one.name}` and `{other.name}` share memory, and the kernel writes to it;"
                    " the compiler takes arrays of one launch to be apart: pass one array for both"
                )
                raise KernelFault(FaultKind.ALIASED, kernel, source, text)


def share(one: ArrayArgument, other: ArrayArgument) -> bool:
    """Whether an element of one overlaps an element of the other."""
    if one.address >= other.end or other.address >= one.end:
        return False
    start = min(one.address, other.address)
    taken = torch.zeros(max(one.end, other.end) - start, dtype=torch.bool)
    _bytes(taken, one, start).fill_(True)
    return bool(_bytes(taken, other, start).any())


def _bytes(flat: torch.Tensor, array: ArrayArgument, start: int) -> torch.Tensor:
    """The bytes of an array's elements in a flat tensor that begins at address `start`."""
    sizes = (*(1 if s == 0 else n for n, s in zip(array.sizes, array.strides, strict=True)),)
    strides = [s * array.itemsize for s in array.strides]
    return flat.as_strided((*sizes, array.itemsize), (*strides, 1), array.address - start)
