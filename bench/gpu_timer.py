"""Device time of several versions of one job, in one run and turn by turn.

Each version is captured once as a CUDA graph and replayed, so that the host's share is left out;
what `bench.launch_overhead` measures is that share. Before each replay a buffer of twice the L2
cache is overwritten, as a model's other tensors would. The same version under two names shows the
noise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

WARM_UPS = 3
COPY_BYTES = 2**32
PRODUCT = 8192


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
    versions: Mapping[str, Callable[[], object]], samples: int, flush: bool = True
) -> dict[str, list[float]]:
    """Microseconds of each, `samples` times. Each round begins with another version."""
    return time_replays({name: captured(f) for name, f in versions.items()}, samples, flush)


def time_replays(
    replays: Mapping[str, Callable[[], None]], samples: int, flush: bool = True
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


def ceilings(samples: int = 20) -> dict[str, float]:
    """What this GPU reaches: bytes per microsecond copied (read and written), FLOP per microsecond
    of a bfloat16 matrix product of random numbers.
    """
    source = torch.randn(COPY_BYTES // 4, device="cuda")
    target = torch.empty_like(source)
    a, b = (torch.randn(PRODUCT, PRODUCT, dtype=torch.bfloat16, device="cuda") for _ in range(2))
    found = time_rounds({"copy": lambda: target.copy_(source), "product": lambda: a @ b}, samples)
    return {
        "bytes_per_us": 2 * COPY_BYTES / sorted(found["copy"])[samples // 2],
        "flop_per_us": 2 * PRODUCT**3 / sorted(found["product"])[samples // 2],
    }
