"""Steps of several versions of one program, turn by turn, so that a slow moment meets all of them.

Ratios are taken within a round: what they scatter is the noise that is left.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

Step = Callable[[], object]


def time_rounds(
    steps_by_name: Mapping[str, Step], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of every step, `rounds` times; each round begins with another one.

    A step waits for its end itself. clock: seconds.
    """
    seconds: dict[str, list[float]] = {name: [] for name in steps_by_name}
    names = list(steps_by_name)
    for index in range(rounds):
        shift = index % len(names)
        for name in names[shift:] + names[:shift]:
            begin = clock()
            steps_by_name[name]()
            seconds[name].append(clock() - begin)
    return seconds


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, first and last decile; of at least two values."""
    deciles = statistics.quantiles(values, n=10, method="inclusive")
    return {"median": statistics.median(values), "p10": deciles[0], "p90": deciles[-1]}


def over(times: Mapping[str, Sequence[float]], base: str) -> dict[str, dict[str, float]]:
    """Of each version the spread of base's time over its own in the same round: over 1 it is
    faster than base. {} without base.
    """
    if base not in times:
        return {}
    return {
        name: spread([theirs / own for theirs, own in zip(times[base], values, strict=True)])
        for name, values in times.items()
        if name != base
    }
