"""Each fusion alone: this backend against Inductor, torch, and every peer that is installed.

Versions run turn by turn; `again` is tilegym a second time: its ratio is the noise. Each is held to
the budget against float64 in the same run, with inputs of its own, since some write into theirs:
one that is wrong is void, and has no ratio. On a GPU times are of the device alone, with the L2
cache overwritten before each, and rates are held against ceilings that the same run measures. In a
model Inductor may fuse an op with its neighbours, which a lone op does not show: `bench.models`.
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from bench import (
    attention,
    attention_cases,
    fusion_cases,
    fusion_versions,
    gpu_timer,
    pieces,
    versions,
)
from bench.fusion_cases import Case
from bench.fusion_table import report
from bench.training import what_ran
from bench.versions import Found, Step, significant
from tile_backend import kernel_events
from tile_backend.lowering.budget import Verdict
from tile_backend.lowering.progress import track

QUICK = ("declaration*", "reduced*")
"""Origins that --quick keeps."""
ON_A_CPU = {
    "device_time": "needs a CUDA device: time_us is that of the processor",
    "share_of_ceiling": "needs a CUDA device",
    "peak_mib": "needs a CUDA device",
    "kernels": "needs a CUDA device",
}
"""Columns that a row of a CPU has not."""


def steps_of(case: Case, device: str, found: Found) -> dict[str, Step]:
    """A warm step for each version; its verdict, and its memory on a GPU, go into `found`."""
    verdict = fusion_versions.judge(case, device)

    def ready(make: fusion_versions.Maker) -> tuple[Step, Verdict]:
        inputs = case.inputs(device)
        slopes = fusion_versions.slopes_of(case, inputs)
        step = functools.partial(fusion_versions.outcome, case, make(case), inputs, slopes)
        return step, verdict(step())

    every = fusion_versions.makers(device).items()
    makers = {name: functools.partial(ready, make) for name, make in every}
    return versions.warm_steps(makers, device, found, what_ran)


def measure(case: Case, device: str, rounds: int) -> tuple[Found, dict[str, int]]:
    """Everything about one case; kernels launched by a step, by version, on a GPU."""
    torch.compiler.reset()
    found = Found()
    steps = steps_of(case, device, found)
    if device == "cpu":
        needed = dict.fromkeys(fusion_versions.NEED_A_GPU, "needs a CUDA device")
        found.not_run = needed | found.not_run
        found.times = versions.time_on_host(steps, rounds)
        return found, {}
    kernels = {name: kernel_events.launched(step) for name, step in steps.items()}
    found.times = versions.time_on_device(steps, rounds, found)
    return found, kernels


def row(
    case: Case, found: Found, kernels: Mapping[str, int], ceiling: Mapping[str, float]
) -> dict[str, Any]:
    """What was found, and rates: of products where the case has some, else of bytes."""
    facts = found.facts()
    work, unit = (case.flop, "flop_per_us") if case.flop else (case.bytes, "bytes_per_us")
    rates = {name: work / facts["time_us"][name]["median"] for name in found.good}
    rate, scale = ("tflop_per_s", 1e6) if case.flop else ("gb_per_s", 1e3)
    made = {
        "case": case.title,
        "fusion": case.fusion,
        "origin": case.origin,
        "shapes": {name: list(shape) for name, shape in case.program.shapes.items()},
        "dtype": str(case.program.dtype).removeprefix("torch."),
        "step": case.step,
        "bytes": case.bytes,
        "flop": case.flop,
        **facts,
        rate: {name: significant(value / scale) for name, value in rates.items()},
        "kernels": dict(kernels),
    }
    if ceiling:
        shares = {name: significant(value / ceiling[unit]) for name, value in rates.items()}
        return made | {"share_of_ceiling": shares, "not_measured": {}}
    return made | {"not_measured": ON_A_CPU}


def attention_row(case: attention_cases.Case, found: Found, ceiling: Mapping[str, float]) -> Any:
    """A row of `bench.attention`, with the columns of this bench."""
    made = attention.row(case, found, ceiling)
    origin = {"fusion": "attention", "origin": "Llama-3.1-8B", "not_measured": {}}
    return made | origin | {"bytes": case.bytes, "flop": case.flop, "kernels": {}}


def chosen(only: str, quick: bool, device: str) -> tuple[list[Case], list[attention_cases.Case]]:
    """The cases of such a title, fusion or origin; with `quick` those of the declarations."""
    every = fusion_cases.cpu_cases() if device == "cpu" else fusion_cases.cases()
    kept = [
        case
        for case in every
        if pieces.matches(only, case.title, case.fusion, case.origin)
        and (not quick or any(pieces.matches(glob, case.origin) for glob in QUICK))
    ]
    attending = [] if device == "cpu" else fusion_cases.attention()
    found = [c for c in attending if pieces.matches(only, c.title, "attention")]
    return kept, found[: 2 if quick else None]


def measured(
    cases: Sequence[Case],
    attending: Sequence[attention_cases.Case],
    device: str,
    rounds: int,
    ceiling: Mapping[str, float],
) -> Iterator[dict[str, Any]]:
    """The rows."""
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        for case in track(cases, "fusions"):
            try:
                yield row(case, *measure(case, device, rounds), ceiling)
            except RuntimeError as error:  # no memory to check it, say
                found = Found(not_run={"every version": versions.reason_of(error)})
                yield row(case, found, {}, ceiling)
        for masked in track(attending, "fusions: attention"):
            yield attention_row(masked, attention.measure(masked, device, rounds, cache), ceiling)


def problems(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Where tilegym is wrong, or did not run."""
    return [
        f"{row['case']}: {row[column]['tilegym']}"
        for row in rows
        for column in ("void", "not_run")
        if "tilegym" in row[column]
    ]


def run(arguments: Sequence[str] | None = None) -> pieces.Record:
    """Measure the cases; each row is saved when it is there."""
    parser = argparse.ArgumentParser(prog="bench.fusions", description="Each fusion alone.")
    pieces.add_arguments(parser, "cases of such a title, fusion or origin")
    parser.add_argument(
        "--hub", action="store_true", help="let Hugging Face's `kernels` download from its hub"
    )
    given = parser.parse_args(arguments)
    if not given.hub:
        os.environ["HF_HUB_OFFLINE"] = "1"
    device = pieces.device()
    rounds = given.rounds or (30 if device == "cpu" else 50)
    cases, attending = chosen(given.only, given.quick, device)
    if not (cases or attending):
        sys.exit(f"bench.fusions: no case, fusion or origin is called {given.only}")
    ceiling = {} if device == "cpu" else gpu_timer.ceilings()
    settings = {**vars(given), "rounds": rounds}
    record = pieces.Record("fusions", not given.no_save, settings=settings, ceilings=ceiling)
    if given.resume:
        cases = [case for case in cases if not record.has(case.title, case.step)]
        attending = [case for case in attending if not record.has(case.title, case.step)]
    for found in measured(cases, attending, device, rounds, ceiling):
        record.add(found)
    return record


def main() -> None:
    """Measure, and print a table."""
    record = run()
    print(report(record.rows))
    print(record.done())


if __name__ == "__main__":
    main()
