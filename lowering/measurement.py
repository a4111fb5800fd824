"""What was measured about a site, as plain data for reports: the times of a slice by way.

The sentence has the age in days where it is made for a person, and the date where it is kept: two
processes then write the same JSON.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Mapping

from tile_backend.lowering.circumstances import has_this_inductor
from tile_backend.lowering.tuning_entry import INDUCTOR, Entry, Spread


@dataclasses.dataclass(frozen=True)
class Measurement:
    """date: ISO 8601, UTC. torch: the version whose Inductor was timed.

    times: by way, see tuning_entry. chosen: the fastest that wins clearly. told: the way that is
    compared with Inductor's. neighbours: what was timed beside the sites. ranges: the sizes that it
    counts for. at: those measured.
    """

    date: str
    gpu: str
    torch: str
    times: Mapping[str, Spread]
    chosen: str
    told: str
    neighbours: tuple[str, ...]
    ranges: Mapping[str, tuple[int, int]]
    at: Mapping[str, int]

    @classmethod
    def of(cls, entry: Entry, told: str, neighbours: tuple[str, ...]) -> Measurement:
        """told: INDUCTOR for the best of the others."""
        if told == INDUCTOR:
            others = [way for way in entry.times if way != INDUCTOR]
            told = min(others, key=lambda way: entry.times[way].median, default=INDUCTOR)
        return cls(
            entry.circumstances.date,
            entry.circumstances.gpu,
            entry.circumstances.torch,
            dict(entry.times),
            entry.chosen,
            told,
            tuple(dict.fromkeys(neighbours)),
            dict(entry.ranges),
            dict(entry.at),
        )

    def sentence(self, today: dt.date | None = None) -> str:
        """As "measured 3 days ago on NVIDIA H200: 12.1 us (11.9 to 12.4), Inductor 14.0 (13.8 to
        14.3), with add, to". today: None for the date in place of the age.
        """
        ours, theirs = self.times[self.told], self.times[INDUCTOR]
        name = f"{self.told} " if len(self.times) > 2 else ""
        other = "" if has_this_inductor(self.torch) else f" with torch {self.torch}"
        parts = [
            f"measured {self.when(today)} on {self.gpu}{other}: {name}{spread(ours, ' us')}",
            f"Inductor {spread(theirs)}",
        ]
        if self.neighbours:
            parts.append(f"with {', '.join(self.neighbours)}")
        return ", ".join(parts)

    def when(self, today: dt.date | None) -> str:
        if today is None:
            return self.date
        days = (today - dt.date.fromisoformat(self.date)).days
        return "today" if days <= 0 else "yesterday" if days == 1 else f"{days} days ago"


def spread(times: Spread, unit: str = "") -> str:
    """As "12.1 us (11.9 to 12.4)"."""
    return f"{figure(times.median)}{unit} ({figure(times.p10)} to {figure(times.p90)})"


def figure(microseconds: float) -> str:
    """Three digits."""
    return f"{microseconds:.0f}" if microseconds >= 100 else f"{microseconds:.3g}"


def span(ranges: Mapping[str, tuple[int, int]]) -> str:
    """As "rows 2048 to 4095"."""
    return ", ".join(
        f"{name} {least}" if least == most else f"{name} {least} to {most}"
        for name, (least, most) in ranges.items()
    )
