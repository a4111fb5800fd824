"""Made-up measurements for tests, of the code that is there; a few of many configurations."""

from __future__ import annotations

import dataclasses

from tile_backend.lowering.kernels.configuration import Configuration
from tile_backend.lowering.tuning_entry import Circumstances, Entry, Kind, Spread, bucket
from tile_backend.lowering.tuning_sources import sources_behind

ARCH = "sm_90"


def circumstances(sort: str, kind: str, gpu: str = "A GPU") -> Circumstances:
    """Of the last day of January 2026."""
    sources = sources_behind(sort, kind)
    return Circumstances("2026-01-31", gpu, "1.0", "2.13.0", "1.7.0", "13.4", sources)


def configuration(kind: Kind, chosen: str, **changes: object) -> Entry:
    """One configuration that was twice as fast as the plan's own."""
    times = {"default": Spread(2.0, 1.9, 2.1, 20), chosen: Spread(1.0, 0.9, 1.1, 20)}
    made = Entry(
        sort="configuration",
        kind=kind.text,
        ranges={name: bucket(size) for name, size in kind.sizes.items()},
        at=kind.sizes,
        times=times,
        chosen=chosen,
        circumstances=circumstances("configuration", kind.text),
    )
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]


def covering(configurations: list[Configuration]) -> list[Configuration]:
    """The planned one, and a few others: every value of every choice occurs."""
    chosen, seen = [configurations[0]], set(words(configurations[0]))
    everywhere = {word for c in configurations for word in words(c)}
    while seen != everywhere:
        best = max(configurations, key=lambda c: len(words(c) - seen))
        chosen.append(best)
        seen |= words(best)
    return chosen


def words(configuration: Configuration) -> set[str]:
    return set(str(configuration).split(","))
