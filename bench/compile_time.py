"""What our passes add to a compile: seconds for 2, 8, 32 and 64 layers, beside plain Inductor's.

Each compile is a fresh process with empty caches. `inductor` and `tilegym` are the seconds spent in
the backend function; neither Dynamo's tracing nor Inductor's first steps in a process (the compiler
probed, its headers precompiled) is counted, which makes the share larger. `passes` are the seconds
that the report attributes to us, our first steps in a process (tracing the patterns) included;
`share` is passes / inductor. `again` is a second compile in the same process: the cost of layers.
`report` is the part of `passes` that keeps the report, when nobody asks for it: sites described as
plain data, facts of the graph, one line in the log.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest import mock

from bench import fresh_process, result_file
from tile_backend.lowering.progress import track

LAYERS = (2, 8, 32, 64)
MOST = 0.05
"""The promise: at 32 layers at most this share."""
MOST_REPORT = 0.02
"""Of it, for the report."""


def compile_once(backend: str, layers: int) -> dict[str, float]:
    """Compile a tiny Llama: seconds in the backend, in our passes, and in a second compile's."""
    import torch

    torch.set_num_threads(1)
    first_steps: Callable[..., Any] = torch.compile(torch.relu, backend="inductor")
    first_steps(torch.ones(64))
    with keeping_reports() as reported:
        seconds = {"backend": compile_llama(backend, layers)}
    if backend == "tilegym":
        seconds["passes"] = passes_of_newest()
        seconds["report"] = sum(reported)
        torch.compiler.reset()
        compile_llama(backend, layers)
        seconds["again"] = passes_of_newest()
    return seconds


def compile_llama(backend: str, layers: int) -> float:
    """Compile and run a fresh model; the seconds spent in the backend."""
    import torch

    from bench.tiny_llama import tiny_llama, tokens

    model, ids, seconds = tiny_llama(layers), tokens(1, 16), [0.0]
    compiled: Any = torch.compile(model, backend=timed(backend, seconds))
    with torch.no_grad():
        compiled(ids, use_cache=False)
    return seconds[0]


@contextlib.contextmanager
def keeping_reports() -> Iterator[list[float]]:
    """The list gets the seconds of each call, made inside, of what keeps the report."""
    from tile_backend import pipeline, sessions
    from tile_backend.lowering import describe

    found: list[float] = []

    def clocked(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            begin = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                found.append(time.perf_counter() - begin)

        return call

    kept = (
        *((describe, name) for name in ("fused", "declined", "near_miss", "left")),
        (pipeline, "facts"),
        (sessions.Session, "add"),
    )
    with contextlib.ExitStack() as stack:
        for owner, name in kept:
            stack.enter_context(mock.patch.object(owner, name, clocked(getattr(owner, name))))
        yield found


def passes_of_newest() -> float:
    """What the report of the newest compile attributes to our passes, in seconds."""
    import tile_backend

    report = tile_backend.last_report()
    assert report is not None, "the backend compiled a graph and left no report"
    return report.seconds


def timed(name: str, seconds: list[float]) -> Callable[..., Any]:
    """The named backend; the time spent in it is added to `seconds[0]`."""
    from torch._dynamo.backends.registry import lookup_backend

    backend = lookup_backend(name)

    def compile_graph(graph: Any, inputs: Any, **options: Any) -> Any:
        begin = time.perf_counter()
        try:
            return backend(graph, inputs, **options)
        finally:
            seconds[0] += time.perf_counter() - begin

    return compile_graph


def measure(layers: int, repeats: int) -> dict[str, Any]:
    """One row: medians of `repeats` pairs of compiles."""
    names = ("inductor", "tilegym", "passes", "report", "again")
    samples: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(repeats):
        for backend in ("inductor", "tilegym"):
            with tempfile.TemporaryDirectory() as cache:
                seconds = fresh_process.call(
                    "bench.compile_time", "compile_once", backend, layers, cache=cache
                )
            samples[backend].append(seconds["backend"])
            for name in seconds.keys() & {"passes", "report", "again"}:
                samples[name].append(seconds[name])
    medians = {name: statistics.median(values) for name, values in samples.items()}
    return {
        "layers": layers,
        **{f"{name}_s": round(value, 4) for name, value in medians.items()},
        "share": round(medians["passes"] / medians["inductor"], 4),
        "report_share": round(medians["report"] / medians["inductor"], 4),
        "ms_per_layer": round(1e3 * medians["again"] / layers, 3),
        "samples": samples,
    }


def report(rows: Sequence[dict[str, Any]]) -> str:
    """The table that is printed last."""
    columns = ("layers", "inductor_s", "tilegym_s", "passes_s", "report_s", "again_s")
    shares = ("share", "report_share")
    return result_file.table(
        (*columns, "ms_per_layer", *shares),
        [
            (*(row[n] for n in (*columns, "ms_per_layer")), *(f"{row[s]:.1%}" for s in shares))
            for row in rows
        ],
    )


def main() -> None:
    """Measure every number of layers and save the result."""
    parser = argparse.ArgumentParser(description="Our passes' share of compile time.")
    parser.add_argument("--layers", type=int, nargs="+", default=LAYERS)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    tracked = track(arguments.layers, "compile_time")
    rows = [measure(layers, arguments.repeats) for layers in tracked]
    promised = {"most": MOST, "most_report": MOST_REPORT}
    path = result_file.save("compile_time", rows, repeats=arguments.repeats, **promised)
    print(f"saved {path.relative_to(result_file.ROOT)}")
    print(report(rows))


if __name__ == "__main__":
    main()
