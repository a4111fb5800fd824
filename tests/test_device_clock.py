"""Sampling until medians are known well enough, and what is made of the samples."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

import pytest

from tile_backend.lowering import device_clock
from tile_backend.lowering.device_clock import interval, narrow, spread, until_narrow
from tile_backend.lowering.tuning_entry import Spread


class Simulated:
    """A clock whose ways take what they return, and are as noisy as `noise` says."""

    def __init__(self, noise: float) -> None:
        self.noise, self.random = noise, random.Random(0)
        self.asked: list[int] = []

    def __call__(
        self, ways: Mapping[str, Callable[[], object]], samples: int
    ) -> dict[str, list[float]]:
        self.asked.append(samples)
        return {
            name: [float(str(way())) * self.random.gauss(1.0, self.noise) for _ in range(samples)]
            for name, way in ways.items()
        }


WAYS: dict[str, Callable[[], object]] = {"one": lambda: 100.0, "two": lambda: 200.0}


def test_a_quiet_clock_is_asked_once() -> None:
    clock = Simulated(0.001)
    times = until_narrow(clock, WAYS)
    assert clock.asked == [device_clock.FEWEST]
    assert times.keys() == WAYS.keys()
    assert len(times["one"]) == device_clock.FEWEST


def test_a_noisy_clock_is_asked_again_but_not_for_ever() -> None:
    clock = Simulated(0.3)
    times = until_narrow(clock, WAYS, most=100)
    assert clock.asked == [20, 20, 40, 20]
    assert {len(found) for found in times.values()} == {100}


def test_time_that_is_spent_ends_it() -> None:
    clock = Simulated(0.3)
    until_narrow(clock, WAYS, seconds=-1.0)
    assert clock.asked == [device_clock.FEWEST]


def test_a_spread_is_the_median_and_the_outer_deciles() -> None:
    assert spread([float(n) for n in range(11)]) == Spread(5.0, 1.0, 9.0, 11)
    assert spread([3.0]) == Spread(3.0, 3.0, 3.0, 1)
    assert not spread([1.0, 1.1]).beats(spread([1.05, 1.2]))


def test_an_interval_narrows_with_the_samples() -> None:
    few, many = [[float(n % 10) for n in range(count)] for count in (20, 500)]
    assert interval(few) > interval(many)
    assert not narrow([100.0] * (device_clock.FEWEST - 1))
    assert narrow([100.0] * 20)
    assert narrow([5.0, 5.2] * 20), "half a microsecond is fine enough"


@pytest.mark.gpu
def test_the_clock_of_a_gpu() -> None:
    import torch

    small, large = (torch.ones(n, device="cuda") for n in (1 << 20, 1 << 26))
    ways = {"small": lambda: small.mul_(1.0), "large": lambda: large.mul_(1.0)}
    times = until_narrow(device_clock.time_rounds, ways)
    assert spread(times["small"]).beats(spread(times["large"]))
