"""Compiled step time on a CPU, `backend="tilegym"` against `backend="inductor"`, and the caches.

Both are compiled in one process and run turn by turn, in changing order, so that a slow moment of
the machine meets both; a second copy compiled with Inductor shows what the noise alone does.
`ratio` is the median over rounds of tilegym's seconds / Inductor's in the same round.

The caches: a second fresh process must find the graph in both compile caches.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable
from typing import Any

import torch

from bench import fresh_process, result_file
from bench.tiny_llama import tiny_llama, tokens
from tile_backend import turns
from tile_backend.lowering.progress import track

MOST = 1.02
"""The promise: the median ratio is at most this."""
BACKENDS = {"inductor": "inductor", "tilegym": "tilegym", "noise": "inductor"}
CASES = (
    ("inference", torch.float32),
    ("inference", torch.bfloat16),
    ("training", torch.float32),
    ("training", torch.bfloat16),
)

Step = Callable[[], object]


def inference_step(model: Any, ids: torch.Tensor) -> Step:
    """One forward without gradients."""

    @torch.no_grad()
    def step() -> object:
        return model(ids, use_cache=False).logits

    return step


def training_step(model: Any, ids: torch.Tensor) -> Step:
    """One forward and backward; gradients are dropped, not accumulated."""

    def step() -> object:
        model.zero_grad(set_to_none=True)
        loss = model(ids, labels=ids, use_cache=False).loss
        loss.backward()
        return loss

    return step


def steps(mode: str, dtype: torch.dtype, layers: int, hidden: int) -> dict[str, Step]:
    """A warm step for each backend, on equal models."""
    make = inference_step if mode == "inference" else training_step
    found = {}
    for name, backend in BACKENDS.items():
        model = tiny_llama(layers, hidden, dtype)
        step = make(torch.compile(model, backend=backend), tokens(1, 256))
        for _ in range(3):
            step()
        found[name] = step
    return found


def measure(mode: str, dtype: torch.dtype, arguments: argparse.Namespace) -> dict[str, Any]:
    """One row: the ratio to Inductor, and Inductor's ratio to itself."""
    torch.compiler.reset()
    found = steps(mode, dtype, arguments.layers, arguments.hidden)
    seconds = turns.time_rounds(found, arguments.rounds)
    ratios = {
        name: [
            ours / theirs for ours, theirs in zip(seconds[name], seconds["inductor"], strict=True)
        ]
        for name in ("tilegym", "noise")
    }
    return {
        "mode": mode,
        "dtype": str(dtype).removeprefix("torch."),
        "inductor_ms": round(1e3 * statistics.median(seconds["inductor"]), 3),
        "tilegym_ms": round(1e3 * statistics.median(seconds["tilegym"]), 3),
        "ratio": turns.spread(ratios["tilegym"]),
        "noise": turns.spread(ratios["noise"]),
    }


def compile_and_count(backend: str, train: bool) -> dict[str, int]:
    """Compile and run once; how often each compile cache was hit and missed."""
    from torch._dynamo.utils import counters

    make = training_step if train else inference_step
    make(torch.compile(tiny_llama(2), backend=backend), tokens(1, 16))()
    return {
        "aot_hits": counters["aot_autograd"]["autograd_cache_hit"],
        "aot_misses": counters["aot_autograd"]["autograd_cache_miss"],
        "fx_hits": counters["inductor"]["fxgraph_cache_hit"],
        "fx_misses": counters["inductor"]["fxgraph_cache_miss"],
    }


def cache_row(backend: str, train: bool) -> dict[str, Any]:
    """What a first and a second fresh process find in one cache folder."""
    with tempfile.TemporaryDirectory() as cache:
        first, second = (
            fresh_process.call("bench.cpu_parity", "compile_and_count", backend, train, cache=cache)
            for _ in range(2)
        )
    return {
        "backend": backend,
        "mode": "training" if train else "inference",
        "first": first,
        "second": second,
    }


def report(rows: list[dict[str, Any]], caches: list[dict[str, Any]]) -> str:
    """The tables that are printed last."""
    times = result_file.table(
        ("mode", "dtype", "inductor ms", "tilegym ms", "ratio", "p10..p90", "noise"),
        [
            (
                *(row[name] for name in ("mode", "dtype", "inductor_ms", "tilegym_ms")),
                f"{row['ratio']['median']:.3f}",
                f"{row['ratio']['p10']:.3f}..{row['ratio']['p90']:.3f}",
                f"{row['noise']['median']:.3f}",
            )
            for row in rows
        ],
    )
    hits = result_file.table(
        ("second process", "mode", *caches[0]["second"]),
        [(row["backend"], row["mode"], *row["second"].values()) for row in caches],
    )
    return f"{times}\n\n{hits}"


def main() -> None:
    """Measure every case and save the result."""
    parser = argparse.ArgumentParser(description="CPU step time and cache hits beside Inductor's.")
    parser.add_argument("--rounds", type=int, default=120)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = []
    for mode, dtype in track(CASES, "cpu_parity"):
        rows.append(measure(mode, dtype, arguments))
    caches = [
        cache_row(backend, train) for train in (False, True) for backend in ("inductor", "tilegym")
    ]
    settings = vars(arguments)
    path = result_file.save("cpu_parity", rows, caches=caches, settings=settings, most=MOST)
    print(f"saved {path.relative_to(result_file.ROOT)}")
    print(report(rows, caches))


if __name__ == "__main__":
    main()
