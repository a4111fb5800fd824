"""What a piece of code has to move, compute and launch, as figures to compare ways by.

`seconds` takes the figures of the GPU's data sheet. It is no prediction: both sides are modelled
alike, and only which is less counts.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from tile_backend.lowering.device import Gpu

LAUNCH_SECONDS = 2e-6
"""What a launch costs on the device beside its bytes: assumed, for comparing only."""


@dataclasses.dataclass
class Step:
    """One launch. reads, writes: bytes by value. blocks: of its grid; 0 where that is not known.

    sparing: what nobody reads is not written.
    """

    reads: dict[int, int]
    writes: dict[int, int]
    flops: float = 0.0
    blocks: int = 0
    resident: int = 1
    sparing: bool = False

    def seconds(self, gpu: Gpu) -> float:
        """By the figures of the GPU's data sheet."""
        moved = sum(self.reads.values()) + sum(self.writes.values())
        busy = max(moved / gpu.bandwidth, self.flops / gpu.flops)
        return LAUNCH_SECONDS + busy / used(self.blocks, self.resident, gpu.multiprocessors)


def used(blocks: int, resident: int, multiprocessors: int) -> float:
    """The share of the GPU that a grid keeps busy: too few blocks, or a last wave that is short."""
    if not blocks:
        return 1.0
    if blocks <= multiprocessors:
        return blocks / multiprocessors
    waves = blocks / (multiprocessors * resident)
    return 1.0 if waves < 1 else waves / math.ceil(waves)


@dataclasses.dataclass(frozen=True)
class Work:
    """Of a piece of code. largest: bytes of the largest value that is neither read nor returned by
    the whole, and lies in memory in between. seconds: a figure to compare with, no prediction.
    """

    launches: int
    bytes: int
    flops: float
    largest: int
    seconds: float

    def __str__(self) -> str:
        return f"{self.launches} launch{'es' * (self.launches != 1)} and {size(self.bytes)}"


def size(count: float) -> str:
    """Bytes in words: "96 MiB"."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} GiB" if count < 1024 else f"{count / 1024:.3g} TiB"


def summed(steps: Sequence[Step], returned: set[int], gpu: Gpu) -> Work:
    moved = sum(sum(s.reads.values()) + sum(s.writes.values()) for s in steps)
    between = [n for s in steps for value, n in s.writes.items() if value not in returned]
    return Work(
        len(steps),
        moved,
        sum(step.flops for step in steps),
        max(between, default=0),
        sum(step.seconds(gpu) for step in steps),
    )
