"""Host time of a launch: in a compiled graph, through the dispatcher, and `ct.launch` alone.

Without a GPU cuda-tile's real dispatcher runs on a stub of the CUDA driver, whose own share is some
nanoseconds: what is measured is all that Python and dispatcher do around the driver call. With a
GPU the real driver's share is in every figure; `driver` in the result says which.

The calls of one round follow one another, and each round begins with another one, so that a slow
moment of the machine meets them all. `graph` is a whole compiled graph with LAUNCHES more launches,
by which the difference to the short graph is divided: allocation of the planned buffers included.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest import mock

import torch

from bench import result_file
from tile_backend import turns
from tile_backend.lowering import (
    cubin_store,
    cuda_state,
    custom_op,
    inductor_ir,
    launch_abi1,
    launch_recipe,
)
from tile_backend.lowering.progress import track
from tile_backend.patterns import all_fusions

MOST_US = 2.0
"""The promise: a launch of the norm in a compiled graph takes at most this."""
LAUNCHES = 64
BF16 = torch.bfloat16

Call = Callable[[], object]


@dataclasses.dataclass(frozen=True)
class Case:
    """One op as generated code calls it. outputs: how many of `tensors` are results, at the end."""

    title: str
    op: str
    tensors: tuple[tuple[int, ...], ...]
    numbers: tuple[Any, ...]
    outputs: int = 1


CASES = (
    Case("norm", "rms_norm", ((64, 1024), (1024,), (64, 1024)), (1e-6, 0.0, "once")),
    Case("norm, viewed", "rms_norm", ((2, 32, 1024), (1024,), (2, 32, 1024)), (1e-6, 0.0, "once")),
    Case("gate, viewed", "silu_mul", ((2, 32, 1024),) * 3, (1.0, "activation")),
    Case(
        "add and norm, viewed",
        "add_rms_norm",
        ((2, 32, 1024), (2, 32, 1024), (1024,), (2, 32, 1024), (2, 32, 1024)),
        (1e-6, 0.0, "once"),
        outputs=2,
    ),
    Case(
        "rotary",
        "rotary_qk",
        ((1, 8, 64, 64), (1, 2, 64, 64), (1, 64, 64), (1, 64, 64), (1, 8, 64, 64), (1, 2, 64, 64)),
        ("half", -1, False, "every_op"),
        outputs=2,
    ),
    Case(
        "attention",
        "attention",
        ((1, 8, 64, 64), (1, 2, 64, 64), (1, 2, 64, 64), (1, 8, 64, 64)),
        (*(None,) * 5, 0.125, True, 0, *(None,) * 4, "sdpa"),
    ),
)


def tensors_of(case: Case, device: str) -> list[torch.Tensor]:
    """Small ones, so that a GPU keeps up."""
    return [torch.randn(shape, dtype=BF16, device=device) for shape in case.tensors]


def arguments_of(case: Case, tensors: Sequence[torch.Tensor]) -> dict[str, Any]:
    """All arguments of the op by name, in schema order."""
    names = custom_op.record(case.op).signature.names
    return dict(zip(names, (*tensors[: -case.outputs], *case.numbers), strict=True))


def compiled_call(case: Case, tensors: list[torch.Tensor]) -> Call:
    """The line that Inductor writes."""
    launcher = getattr(launch_abi1, case.op)
    arguments = (*tensors[: -case.outputs], *case.numbers)
    if case.outputs > 1:
        several = (*arguments, *tensors[-case.outputs :])
        return lambda: launcher(*several)
    out = tensors[-1]
    return lambda: launcher(*arguments, out=out)


def bare_call(case: Case, tensors: list[torch.Tensor], device: int) -> Call:
    """`ct.launch` with everything at hand: what no launcher can do without."""
    arguments = arguments_of(case, tensors)
    values = (*arguments.values(), *tensors[-case.outputs :])
    described, arch = launch_recipe.describe(values), cuda_state.architecture(device)
    recipe = launch_recipe.recipe(case.op, tuple(arguments), described, arch)
    assert recipe is not None, "a case has something to compute"
    stream, grid, kernel = cuda_state.raw_stream(device), recipe.grid, recipe.kernel
    passed = recipe.arguments(values)
    launch = importlib.import_module("cuda.tile").launch
    return lambda: launch(stream, grid, kernel, passed)


def dispatched_calls(case: Case, tensors: list[torch.Tensor], device: int) -> dict[str, Call]:
    """The same launch as an op of its own: what a library without a compiler's help does."""
    launch = bare_call(case, tensors, device)
    x, weight, out = tensors

    def plain(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        result = torch.empty_like(out)
        launch()
        return result

    schema = "(Tensor x, Tensor weight) -> Tensor"
    high = torch.library.custom_op("bench_high::op", plain, mutates_args=(), schema=schema)
    high.register_fake(lambda x, weight: torch.empty_like(out))
    low = torch.library.Library("bench_low", "DEF")
    low.define(f"op{schema}")
    low.impl("op", plain, "CompositeExplicitAutograd")
    op = torch.ops.bench_low.op
    return {
        "custom_op": lambda: high(x, weight),
        "define_impl": lambda: (low, op(x, weight)),
    }


def graphs(case: Case, tensors: list[torch.Tensor]) -> dict[str, Call]:
    """Two compiled graphs that differ by LAUNCHES launches."""
    inductor_ir.install(all_fusions())
    op = getattr(torch.ops.tilegym, case.op)
    x, weight = tensors[:2]

    def chain(count: int) -> Call:
        def function(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
            for _ in range(count):
                x = op(x, weight, *case.numbers)
            return x

        with inductor_ir.force_direct_launch():
            compiled = torch.compile(function, fullgraph=True)
            compiled(x, weight)
        return lambda: compiled(x, weight)

    return {"short": chain(1), "long": chain(1 + LAUNCHES)}


def time_rounds(
    calls: dict[str, Call], rounds: int, repeats: int, finish: Call
) -> dict[str, list[float]]:
    """Microseconds of one call each, turn by turn. finish: waits for the GPU, outside the clock."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    names = list(calls)
    for call in calls.values():
        for _ in range(20):
            call()
    for index in range(rounds):
        shift = index % len(names)
        for name in names[shift:] + names[:shift]:
            call = calls[name]
            finish()
            begin = time.perf_counter()
            for _ in range(repeats):
                call()
            found[name].append(1e6 * (time.perf_counter() - begin) / repeats)
    finish()
    return found


def measure(case: Case, device: str, rounds: int, repeats: int) -> dict[str, Any]:
    """One row; the first case has the comparisons with a whole graph and with other ops."""
    tensors = tensors_of(case, device)
    calls = {"launch": bare_call(case, tensors, 0), "compiled": compiled_call(case, tensors)}
    finish = torch.cuda.synchronize if device == "cuda" else (lambda: None)
    if case is CASES[0]:
        calls |= dispatched_calls(case, tensors, 0)
    micros = time_rounds(calls, rounds, repeats, finish)
    row: dict[str, Any] = {"case": case.title, "op": case.op}
    if case is CASES[0]:
        both = time_rounds(graphs(case, tensors), rounds, max(repeats // LAUNCHES, 1), finish)
        pairs = zip(both["long"], both["short"], strict=True)
        micros["graph"] = [(long - short) / LAUNCHES for long, short in pairs]
    for name, values in micros.items():
        row[f"{name}_us"] = {n: round(v, 3) for n, v in turns.spread(values).items()}
    return row


@contextlib.contextmanager
def launching() -> Iterator[tuple[str, str]]:
    """Device of the tensors and name of the driver; on a stub, kernels that nobody compiles."""
    custom_op.define(all_fusions())
    if torch.cuda.is_available():
        yield "cuda", "real"
        return
    from tests import stub_driver
    from tile_backend.lowering.kernels import compiled

    with (
        tempfile.TemporaryDirectory() as store,
        mock.patch.dict(os.environ, {cubin_store.FOLDER: store}),
        mock.patch.object(compiled.Kernel, "_compiled", return_value=b"\x7fELF of nothing"),
        stub_driver.gpu(stub_driver.install()),
    ):
        yield "cpu", "stub"


def measured(rounds: int, repeats: int) -> tuple[list[dict[str, Any]], str]:
    """A row per case, and which driver it was: "real" or "stub"."""
    with launching() as (device, driver), torch.no_grad():
        cases = track(CASES, "launch_overhead")
        return [measure(case, device, rounds, repeats) for case in cases], driver


def report(rows: list[dict[str, Any]]) -> str:
    """The tables that are printed last."""
    cases = result_file.table(
        ("case", "ct.launch us", "in compiled code us", "p10..p90"),
        [
            (
                row["case"],
                f"{row['launch_us']['median']:.2f}",
                f"{row['compiled_us']['median']:.2f}",
                f"{row['compiled_us']['p10']:.2f}..{row['compiled_us']['p90']:.2f}",
            )
            for row in rows
        ],
    )
    graph = rows[0]["graph_us"]["median"]
    ways = result_file.table(
        ("the norm", "us", "ratio to the graph"),
        [
            (way, f"{median:.2f}", f"{median / graph:.2f}")
            for way, median in (
                (name.removesuffix("_us"), rows[0][name]["median"])
                for name in ("graph_us", "compiled_us", "define_impl_us", "custom_op_us")
            )
        ],
    )
    return f"{cases}\n\n{ways}"


def main() -> None:
    """Measure every case and save the result."""
    parser = argparse.ArgumentParser(description="Host time of a launch.")
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=2000)
    parser.add_argument("--no-save", action="store_true", help="print only")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows, driver = measured(arguments.rounds, arguments.repeats)
    if not arguments.no_save:
        facts = {"driver": driver, "settings": vars(arguments), "most_us": MOST_US}
        path = result_file.save("launch_overhead", rows, **facts)
        print(f"saved {path.relative_to(result_file.ROOT)}")
    print(f"driver: {driver}\n{report(rows)}")


if __name__ == "__main__":
    main()
