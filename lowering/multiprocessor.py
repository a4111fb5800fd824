"""How many warps of a kernel fit a multiprocessor at once: CUDA's occupancy arithmetic.

The limits are those of the CUDA C++ programming guide, table "technical specifications per
compute capability".
"""

from __future__ import annotations

import dataclasses

WARP = 32
QUARTERS = 4
"""Schedulers of a multiprocessor, each with a quarter of its registers."""
REGISTERS = 65536
REGISTER_UNIT = 256
"""Registers are handed to a warp in multiples of it."""
SHARED_UNIT = 128
"""Bytes: shared memory is handed to a block in multiples of it."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """Of one multiprocessor. reserved: bytes of each block that cubins for it do not count."""

    warps: int
    blocks: int
    shared: int
    reserved: int


LIMITS = {
    "sm_80": Limits(64, 32, 164 << 10, 1024),
    "sm_89": Limits(48, 24, 100 << 10, 1024),
    "sm_90": Limits(64, 32, 228 << 10, 0),
    "sm_100": Limits(64, 32, 228 << 10, 0),
    "sm_120": Limits(48, 24, 100 << 10, 0),
}


def resident_blocks(arch: str, threads: int, registers: int, shared: int) -> int:
    """Blocks that run at once on one multiprocessor.

    threads, shared (bytes): per block; registers: per thread.
    """
    limits = LIMITS[arch]
    warps = -(-threads // WARP)
    per_warp = rounded(max(registers, 1) * WARP, REGISTER_UNIT)
    fitting = REGISTERS // QUARTERS // per_warp * QUARTERS
    taken = rounded(shared + limits.reserved, SHARED_UNIT)
    by_shared = limits.shared // taken if taken else limits.blocks
    return min(limits.blocks, limits.warps // warps, fitting // warps, by_shared)


def resident_warps(arch: str, threads: int, registers: int, shared: int) -> int:
    """Warps that run at once on one multiprocessor."""
    return resident_blocks(arch, threads, registers, shared) * -(-threads // WARP)


def rounded(n: int, unit: int) -> int:
    """The next multiple of `unit`."""
    return -(-n // unit) * unit
