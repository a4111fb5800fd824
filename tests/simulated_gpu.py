"""A GPU that is not there: its description, and clocks that say what a test wants."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from tile_backend import weighing
from tile_backend.lowering import choice, device
from tile_backend.lowering.device import Gpu
from tile_backend.lowering.tuning_entry import INDUCTOR

GPU = Gpu("Simulated H200", (9, 0), 132, 50 * 2**20, 4.8e12, 989e12)
SCATTER = (0.98, 1.0, 1.02)


class SimulatedClock:
    """Gives each way the microseconds that `times` says, 10 for Inductor by default.

    asked: the ways of each measurement, in order. Runs every way once, as a clock does.
    """

    def __init__(self, times: Callable[[str], float], scatter: Sequence[float] = SCATTER) -> None:
        self.times, self.scatter = times, scatter
        self.asked: list[tuple[str, ...]] = []
        self._last: object = None

    def __call__(
        self, ways: Mapping[str, Callable[[], object]], samples: int
    ) -> Mapping[str, Sequence[float]]:
        if ways is not self._last:  # else more samples of the same
            self.asked.append(tuple(ways))
        self._last = ways
        found: dict[str, list[float]] = {}
        for name, run in ways.items():
            run()
            time = 10.0 if name == INDUCTOR else self.times(name)
            found[name] = [time * self.scatter[i % len(self.scatter)] for i in range(samples)]
        return found


def winning() -> SimulatedClock:
    """Ops take half the time."""
    return SimulatedClock(lambda way: 5.0)


def losing() -> SimulatedClock:
    """Ops take twice the time."""
    return SimulatedClock(lambda way: 20.0)


def close() -> SimulatedClock:
    """Ops are faster by less than the samples scatter."""
    return SimulatedClock(lambda way: 9.9)


@contextlib.contextmanager
def simulated(
    monkeypatch: pytest.MonkeyPatch, folder: Path, clock: SimulatedClock
) -> Iterator[SimulatedClock]:
    """CPU tensors count as the GPU's, and what is measured goes into `folder`."""
    monkeypatch.setenv("TILEGYM_TUNING", str(folder))
    forget()
    weighing.clock.append(clock)
    try:
        with device.simulated(GPU):
            yield clock
    finally:
        weighing.clock.pop()
        forget()


def forget() -> None:
    """As another process would begin."""
    choice.estimates.clear()
    choice.measured.clear()
