"""Whether running a piece of code twice and once more in float64 leaves the machine alive.

An estimate from the sizes of all values that the code makes, against what is free where it runs.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable

import torch

from tile_backend.lowering.node import hint
from tile_backend.lowering.real_tensors import CannotRun

SHARE = 0.5
"""Of what is free: the estimate knows nothing of what kernels and the allocator use beside it."""
WIDE = torch.float64.itemsize


def needed(values: Iterable[torch.Tensor], trains: bool) -> int:
    """Bytes: the values of the original and of the new code, and those of the float64 oracle.

    values: all that the original code reads and makes, fake or not. trains: with a backward, which
    keeps the values of its forward and makes as much again.
    """
    own = wide = 0
    for tensor in values:
        elements = math.prod(map(hint, tensor.shape))
        own += elements * tensor.dtype.itemsize
        wide += elements * (WIDE if tensor.dtype.is_floating_point else tensor.dtype.itemsize)
    return (2 * own + wide) * (2 if trains else 1)


def free(device: torch.device) -> int | None:
    """Bytes that are free on a device; None where nobody knows."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None


def check(values: Iterable[torch.Tensor], trains: bool, device: torch.device) -> None:
    """Raise CannotRun, with the figures, where there is no room."""
    wanted, there = needed(values, trains), free(device)
    if there is None or wanted <= SHARE * there:
        return
    raise CannotRun(
        f"too large: it would take about {wanted / 2**30:.1f} GiB,"
        f" and {there / 2**30:.1f} GiB are free on {device}, of which {SHARE:.0%} may be used"
    )
