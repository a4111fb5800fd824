"""Device time of several ways to do one job, in one run and turn by turn.

Each way is captured once as a CUDA graph and replayed, so that the host's share is left out. Before
each replay a buffer of twice the L2 cache is overwritten, as a model's other tensors would. The
same work under two names shows the noise.

`until_narrow` asks a clock for more samples until the medians are known well enough.
"""

from __future__ import annotations

import math
import statistics
import time
import weakref
from collections.abc import Callable, Mapping, Sequence

import torch

from tile_backend.lowering.tuning_entry import Spread

Clock = Callable[[Mapping[str, Callable[[], object]], int], Mapping[str, Sequence[float]]]
"""Ways by name, and how many samples of each -> microseconds, interleaved."""

WARM_UPS = 3
FEWEST, MOST = 20, 1000
"""Samples of each way."""
NARROW, FINE = 0.01, 0.5
"""A median is known well enough when its 95 % interval is narrower than this share of it, or than
so many microseconds."""
SECONDS = 5.0
"""After that, what is known has to do."""


def captured(function: Callable[[], object]) -> Callable[[], None]:
    """A replay of the function's work on the current device; it is run a few times first."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UPS):
            function()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        function()
    return graph.replay


def time_rounds(
    ways: Mapping[str, Callable[[], object]], samples: int, flush: bool = True
) -> dict[str, list[float]]:
    """Microseconds of each, `samples` times; a Clock. Each round begins with another way.

    A way is captured when it is first seen, and its graph lives as long as the way.
    """
    for way in ways.values():
        if way not in _replays:
            _replays[way] = captured(way)
    return time_replays({name: _replays[way] for name, way in ways.items()}, samples, flush)


_replays: weakref.WeakKeyDictionary[Callable[[], object], Callable[[], None]] = (
    weakref.WeakKeyDictionary()
)


def time_replays(
    replays: Mapping[str, Callable[[], object]], samples: int, flush: bool = True
) -> dict[str, list[float]]:
    """The same of functions that are `captured` already."""
    cache = torch.cuda.get_device_properties().L2_cache_size
    buffer = torch.empty(2 * cache if flush else 0, dtype=torch.uint8, device="cuda")
    events: dict[str, list[tuple[torch.cuda.Event, torch.cuda.Event]]] = {n: [] for n in replays}
    names = list(replays)
    for index in range(samples):
        shift = index % len(names)
        for name in names[shift:] + names[:shift]:
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            buffer.zero_()
            begin.record()
            replays[name]()
            end.record()
            events[name].append((begin, end))
    torch.cuda.synchronize()
    return {n: [1e3 * a.elapsed_time(b) for a, b in pairs] for n, pairs in events.items()}


def until_narrow(
    clock: Clock,
    ways: Mapping[str, Callable[[], object]],
    *,
    fewest: int = FEWEST,
    most: int = MOST,
    seconds: float = SECONDS,
) -> dict[str, list[float]]:
    """Microseconds of each way: at least `fewest` samples, then as many again, and so on, until
    each median is narrow, or `most` samples are there, or so many seconds are spent.

    Every way is sampled in every round, also one that is narrow already: they are compared.
    """
    began = time.monotonic()
    times: dict[str, list[float]] = {name: [] for name in ways}
    taken, wanted = 0, fewest
    while True:
        for name, found in clock(ways, wanted - taken).items():
            times[name] += found
        taken = wanted
        if taken >= most or time.monotonic() - began > seconds or all(map(narrow, times.values())):
            return times
        wanted = min(2 * taken, most)


def spread(times: Sequence[float]) -> Spread:
    """Median and outer deciles. times: microseconds, at least one."""
    if len(times) == 1:
        return Spread(times[0], times[0], times[0], 1)
    deciles = statistics.quantiles(times, n=10, method="inclusive")
    return Spread(statistics.median(times), deciles[0], deciles[-1], len(times))


def narrow(times: Sequence[float]) -> bool:
    """Whether the median is known well enough."""
    width = math.inf if len(times) < FEWEST else interval(times)
    return width <= max(FINE, NARROW * statistics.median(times))


def interval(times: Sequence[float]) -> float:
    """The width of the median's 95 % interval, from the order of the samples."""
    ordered, count = sorted(times), len(times)
    reach = 0.98 * math.sqrt(count)
    low, high = math.floor(count / 2 - reach), math.ceil(count / 2 + reach)
    return ordered[min(high, count - 1)] - ordered[max(low, 0)]
