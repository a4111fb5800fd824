"""`kernel(function, **hints)`: the one `cuda.tile.kernel` of a function and its compiler hints.

A kernel object owns a table of compiled variants, so it is made once per set of hints and kept. The
kernel functions themselves stay plain functions: what is inlined where can be read and tested.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import cuda.tile as ct


@functools.cache
def kernel(function: Callable[..., None], **hints: Any) -> Any:
    """`hints` are those of `ct.kernel`: `num_worker_warps`, `occupancy`, ... ."""
    return ct.kernel(function, **hints)
