"""One measurement that is kept: what was timed, the sizes for which it counts, and who timed it.

Two sorts share the form. A `gate` entry times a slice of a model compiled in several ways, by which
ops of ours go in; a `configuration` entry times one kernel under several configurations. Entries
are plain data.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Mapping
from typing import Literal

INDUCTOR = "inductor"
"""The way of a gate entry in which no op goes in."""


@dataclasses.dataclass(frozen=True)
class Spread:
    """Microseconds of device time: median, first and last decile of so many samples."""

    median: float
    p10: float
    p90: float
    samples: int

    def beats(self, other: Spread) -> bool:
        """Faster by more than what either scatters."""
        return self.p90 < other.p10


@dataclasses.dataclass(frozen=True)
class Kind:
    """What is alike about calls that one measurement speaks for.

    text:  everything but sizes that vary between calls: op, dtypes, features, flags, neighbours.
    sizes: those sizes by name, {"rows": 4096}; in a dynamic graph what they were at capture.
    least, most: the range that the graph allows each size; equal to `sizes` where it is static.
    """

    text: str
    sizes: Mapping[str, int]
    least: Mapping[str, int] = dataclasses.field(default_factory=dict)
    most: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def range_of(self, name: str) -> tuple[int, int]:
        """The least and the most that a size can be."""
        known = self.sizes[name]
        return self.least.get(name, known), self.most.get(name, known)


@dataclasses.dataclass(frozen=True)
class Circumstances:
    """Where and with what something was measured. date: of the day, ISO 8601, UTC.

    sources: a digest of the code that was timed; other code has no measurement.
    """

    date: str
    gpu: str
    driver: str
    torch: str
    cuda_tile: str
    compiler: str
    sources: str

    def age(self, today: dt.date) -> int:
        """In days."""
        return (today - dt.date.fromisoformat(self.date)).days


@dataclasses.dataclass(frozen=True)
class Entry:
    """kind: text of a Kind. ranges: the sizes for which it counts, both ends included. at: those
    measured. times: by way: names of ops joined by "+", or INDUCTOR; of a configuration entry the
    configurations as text ("rows=2,warps=8"), the default under "default". chosen: one of `times`.
    """

    sort: Literal["gate", "configuration"]
    kind: str
    ranges: Mapping[str, tuple[int, int]]
    at: Mapping[str, int]
    times: Mapping[str, Spread]
    chosen: str
    circumstances: Circumstances

    def covers(self, sizes: Mapping[str, int]) -> bool:
        """Whether it speaks for calls of these sizes."""
        return sizes.keys() == self.ranges.keys() and all(
            least <= sizes[name] <= most for name, (least, most) in self.ranges.items()
        )


def bucket(size: int) -> tuple[int, int]:
    """The range that a measurement at `size` speaks for: between two powers of two."""
    least = 1 << (max(size, 1).bit_length() - 1)
    return least, 2 * least - 1
