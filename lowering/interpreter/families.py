"""The families of opcodes. Importing this module registers the handlers of all of them."""

from __future__ import annotations

from tile_backend.lowering.interpreter import (
    atomics,
    casts,
    constants,
    elementwise,
    matrix,
    pointer_memory,
    reductions,
    shapes,
    tile_memory,
    views,
)

FAMILIES = (
    atomics,
    casts,
    constants,
    elementwise,
    matrix,
    pointer_memory,
    reductions,
    shapes,
    tile_memory,
    views,
)
