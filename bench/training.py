"""Training: `backend="tilegym"` against Inductor, Liger and eager.

First one fusion each, forward and backward (`training_programs`), then whole steps of models with
loss and optimiser (`training_models`). The versions of a case are timed turn by turn in one run;
every one is held to the budget against float64, and one that is wrong has no ratio. Fusions are
timed on the GPU alone; steps as a program waits for them. Peak memory is what a step needs beyond
weights and inputs.
"""

from __future__ import annotations

import argparse
import fnmatch
import functools
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch

import tile_backend
from bench import (
    fresh_process,
    result_file,
    training_models,
    training_programs,
    versions,
)
from bench.training_models import Case, Trained
from bench.training_programs import Function, Program, judge, outcome, slopes_of
from bench.training_table import report
from bench.versions import Found, Step, significant
from tile_backend import step_memory
from tile_backend.lowering.budget import Verdict
from tile_backend.lowering.progress import track

IN_A_PROCESS = ("tilegym", "no logits", "inductor", "eager")
"""The versions whose memory on a CPU is measured, each in a process of its own."""


def what_ran() -> dict[str, str]:
    """How often each fusion was found in the newest compile, and what was decided."""
    found = tile_backend.last_report()
    sites = [site for site in found.sites if site.status == "fused"] if found else []
    counts = Counter(f"{site.fusion}: {site.decision}" for site in sites)
    return {name: str(count) for name, count in sorted(counts.items())}


def program_steps(program: Program, device: str, found: Found) -> dict[str, Step]:
    """A warm step for each version of a fusion; its verdict goes into `found`."""
    inputs = program.inputs(device)
    slopes = slopes_of(program, inputs)
    verdict = judge(program, inputs, slopes)

    def ready(make: Callable[[Program], Function]) -> tuple[Step, Verdict]:
        step = functools.partial(outcome, make(program), inputs, slopes)
        return step, verdict(step())

    every = training_programs.makers(device).items()
    makers = {name: functools.partial(ready, make) for name, make in every}
    return versions.warm_steps(makers, device, found, what_ran)


def measure_program(program: Program, device: str, rounds: int) -> Found:
    """Everything about one fusion."""
    torch.compiler.reset()
    found = Found()
    steps = program_steps(program, device, found)
    if device == "cpu":
        found.times = versions.time_on_host(steps, rounds)
    else:
        found.times = versions.time_on_device(steps, rounds, found)
    return found


def model_steps(case: Case, device: str, found: Found) -> dict[str, Step]:
    """A warm step for each version of a model, all with weights of their own."""
    verdict = training_models.judge(case, device)
    tokens = case.tokens(device)

    def ready(make: Callable[[Any], Trained]) -> tuple[Step, Verdict]:
        trained = make(case.model(device))
        judged, step = verdict(trained), trained.step(tokens)
        for _ in range(2):
            step()
        return step, judged

    every = training_models.makers(device).items()
    makers = {name: functools.partial(ready, make) for name, make in every}
    return versions.warm_steps(makers, device, found, what_ran)


def measure_model(case: Case, device: str, rounds: int, cache: str) -> Found:
    """Everything about one model at one length. cache: the folder of Inductor's caches."""
    torch.compiler.reset()
    found = Found()
    steps = model_steps(case, device, found)
    found.times = versions.time_on_host(steps, rounds)
    for name in IN_A_PROCESS if device == "cpu" else ():
        if name in steps:
            found.peaks[name] = fresh_process.call(
                "bench.training", "cpu_peak_mib", case.title, name, cache=cache
            )
    return found


def cpu_peak_mib(title: str, version: str) -> float:
    """Of a step of a model in this process, which must be a fresh one."""
    (case,) = (case for case in training_models.cases("cpu") if case.title == title)
    trained = training_models.makers("cpu")[version](case.model("cpu"))
    step = trained.step(case.tokens("cpu"))
    for _ in range(2):
        step()
    return step_memory.cpu_peak_mib(step)


def program_row(program: Program, found: Found) -> dict[str, Any]:
    """What was found, and at which shapes."""
    shapes = {name: list(shape) for name, shape in program.shapes.items()}
    return {"case": program.title, "shapes": shapes, **found.facts()}


def model_row(case: Case, found: Found) -> dict[str, Any]:
    """With tokens per second."""
    facts = found.facts()
    speeds = {n: significant(1e6 * case.length / facts["time_us"][n]["median"]) for n in found.good}
    settings = {"config": dict(case.config), "dtype": str(case.dtype).removeprefix("torch.")}
    return {
        "case": case.title,
        **settings,
        "tokens": case.length,
        **facts,
        "tokens_per_s": speeds,
    }


def measure_all(only: str, device: str, rounds: int) -> list[dict[str, Any]]:
    """The rows of all cases of such a title."""
    programs = [p for p in training_programs.programs(device) if matches(p, only)]
    models = [case for case in training_models.cases(device) if matches(case, only)]
    with tempfile.TemporaryDirectory() as cache:
        # For fresh processes too: they find what is compiled here.
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        return [
            *(
                program_row(program, measure_program(program, device, rounds))
                for program in track(programs, "training: fusions")
            ),
            *(
                model_row(case, measure_model(case, device, rounds, cache))
                for case in track(models, "training: models")
            ),
        ]


def matches(case: Program | Case, only: str) -> bool:
    """Whether its title is one of those."""
    return fnmatch.fnmatchcase(case.title, only)


def titles(device: str) -> Sequence[str]:
    """Of all cases."""
    programs = [program.title for program in training_programs.programs(device)]
    return [*programs, *(case.title for case in training_models.cases(device))]


def main() -> None:
    """Measure every case and save the result."""
    parser = argparse.ArgumentParser(description="Training: fusions, then steps of models.")
    parser.add_argument("--rounds", type=int, help="default: 30, without a GPU 5; at least 2")
    parser.add_argument("--only", default="*", metavar="GLOB", help="cases of such a title")
    parser.add_argument("--no-save", action="store_true", help="print only")
    given = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rounds = given.rounds or (5 if device == "cpu" else 30)
    rows = measure_all(given.only, device, rounds)
    if not rows:
        sys.exit(f"bench.training: no case is called {given.only}: {titles(device)}")
    if not given.no_save:
        facts = {"settings": {**vars(given), "rounds": rounds}, "device": device}
        path = result_file.save("training", rows, threads=torch.get_num_threads(), **facts)
        print(f"saved {path.relative_to(result_file.ROOT)}")
    print(report(rows))


if __name__ == "__main__":
    main()
