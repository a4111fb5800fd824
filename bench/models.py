"""Whole models with random weights, prefill and decoding: this backend against everything else.

Versions that leave the model as it is run turn by turn in one process; libraries that patch it run
in processes of their own beside Inductor as a control, to which their ratio is taken. Each is held
to the budget: one that is wrong is void, and has no ratio. Compile times are of fresh processes;
the second finds the caches of the first.

Without a GPU the code of the models at full size is counted (kernels, and the bytes that they
move), which needs no weights; steps and compile times are those of a reduced model.
"""

from __future__ import annotations

import argparse
import functools
import gc
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from bench import (
    gpu_timer,
    model_cases,
    model_check,
    model_compile,
    model_peers,
    model_versions,
    model_work,
    pieces,
    versions,
)
from bench.model_cases import Case
from bench.model_table import report
from bench.training import what_ran
from bench.versions import Found, Step, rounded, significant
from tile_backend import dynamo_counts, kernel_events, turns
from tile_backend.lowering.budget import Verdict
from tile_backend.lowering.progress import track

SMALLEST = (model_cases.PREFILL[0], model_cases.DECODE[0])
"""Sizes at which compile times are measured; other sizes compile the same graph."""
PAIRS = {"tilegym reduce-overhead": "inductor reduce-overhead"}
"""Versions that are compared in a mode of their own as well."""
NO_GPU = "needs a CUDA device"
ON_A_CPU = {
    "time_us of the full size": NO_GPU,
    "share_of_ceiling": NO_GPU,
    "kernels launched": NO_GPU,
    "peak_mib": NO_GPU,
}
QUICK = (" 2048", "decode 1")


# --- what runs in one process ---------------------------------------------------------------------


def steps_of(
    case: Case, model: Any, given: dict[str, Any], device: str, found: Found, graphs: dict[str, Any]
) -> tuple[dict[str, Step], str]:
    """A warm step for each version, and what it was checked against."""
    verdict, words = model_check.judge(case, model, given)

    def ready(name: str, make: model_versions.Maker) -> tuple[Step, Verdict]:
        step = model_versions.step_of(case, make(model), given)
        with dynamo_counts.graphs() as counted:
            for _ in range(3):  # CUDA graphs are recorded at the second
                step()
        graphs[name] = {"graphs": counted.count, "breaks": counted.breaks}
        judged = verdict(model_versions.judged_step(case, step, given))
        return lambda: [step()], judged

    every = model_versions.makers(device)
    makers = {name: functools.partial(ready, name, make) for name, make in every.items()}
    return versions.warm_steps(makers, device, found, what_ran), words


def interleaved(case: Case, device: str, rounds: int) -> tuple[Found, dict[str, Any]]:
    """Times, verdicts and memory of the versions; kernels, graphs and breaks of each."""
    torch.compiler.reset()
    found = Found()
    graphs: dict[str, Any] = {}
    with torch.no_grad():
        model, given = case.built(device), case.arguments(device)
        steps, words = steps_of(case, model, given, device, found, graphs)
        launched = {n: kernel_events.launched(s) for n, s in steps.items() if device != "cpu"}
        found.times = versions.time_on_host(steps, rounds)
    del model, given, steps
    torch.compiler.reset()  # the memory of CUDA graphs is for the processes of others
    gc.collect()
    return found, {"checked": words, "kernels": launched, "compiled": graphs}


# --- rows -----------------------------------------------------------------------------------------


def facts_of(case: Case) -> dict[str, Any]:
    """Which model, at which size."""
    return {
        "case": case.title,
        "model": case.model.name,
        "phase": case.phase,
        "batch": case.batch,
        "length": case.length,
        "filled": case.filled,
        "layers": case.layers,
        "of_layers": case.model.layers,
        "dtype": str(case.dtype).removeprefix("torch."),
        "attention": case.model.attention,
    }


def results(
    found: Found, peers: Mapping[str, Any], more: Mapping[str, Any], tokens: int
) -> dict[str, Any]:
    """Spreads, ratios to Inductor in the same round (of a peer: to its control), verdicts."""
    facts = found.facts()
    del facts["over_tilegym"]
    good = {n: found.times[n] for n in found.good}
    own = {n: t for n, t in good.items() if n not in peers}
    speedup = turns.over(own, "inductor")
    for name in peers.keys() & good.keys():
        control = {"inductor": peers[name]["control"], name: peers[name]["seconds"]}
        speedup |= turns.over(control, "inductor")
    modes = {
        name: turns.over({n: own[n] for n in (name, base)}, base)[name]
        for name, base in PAIRS.items()
        if {name, base} <= own.keys()
    }
    compiled = {**more["compiled"], **{n: peer_graphs(told) for n, told in peers.items()}}
    kernels = {**more["kernels"], **{n: told["kernels"] for n, told in peers.items()}}
    return facts | {
        "speedup": {n: rounded(s) for n, s in speedup.items()},
        "speedup_same_mode": {n: rounded(s) for n, s in modes.items()},
        "controls": {n: rounded(turns.spread(t["control"])) for n, t in peers.items()},
        "tokens_per_s": {
            n: significant(1e6 * tokens / facts["time_us"][n]["median"]) for n in good
        },
        "checked": more["checked"],
        "compiled": compiled,
        "kernels": kernels,
    }


def peer_graphs(told: Mapping[str, Any]) -> dict[str, Any]:
    """Of a patched library."""
    return {"graphs": told["graphs"], "breaks": told["breaks"]}


def gpu_row(case: Case, rounds: int, ceiling: Mapping[str, float], folder: str) -> dict[str, Any]:
    """Everything about one case on a GPU."""
    found, more = interleaved(case, "cuda", rounds)
    torch.cuda.empty_cache()
    peers = model_peers.run_all(case, found, rounds, folder)
    made = facts_of(case) | results(found, peers, more, case.batch * case.length)
    if case.decodes:
        work, rate, scale, most = model_work.bytes_read(case), "gb_per_s", 1e3, "bytes_per_us"
    else:
        work, rate, scale, most = model_work.flop(case), "tflop_per_s", 1e6, "flop_per_us"
    rates = {n: work / made["time_us"][n]["median"] for n in found.good}
    made[rate] = {n: significant(value / scale) for n, value in rates.items()}
    made["share_of_ceiling"] = {n: significant(v / ceiling[most]) for n, v in rates.items()}
    made["not_measured"] = {}
    if case.length in SMALLEST and case.batch == 1:
        made["compile_s"] = model_compile.compile_times(case, "cuda", folder)
    else:
        made["not_measured"] = {"compile_s": "as at the smallest size: the same graph"}
    return made


def cpu_row(case: Case, rounds: int, folder: str) -> dict[str, Any]:
    """Code at full size; steps and compile times of the reduced model at the smallest size."""
    made = facts_of(case) | {"counted": model_compile.counted(case), "not_measured": dict(ON_A_CPU)}
    if not (case.length in SMALLEST and case.batch == 1):
        made["not_measured"]["time_us"] = made["not_measured"]["compile_s"] = (
            "without a GPU at the smallest size only"
        )
        return made | {"not_run": {}, "void": {}}
    small = model_cases.reduced(case)
    found, more = interleaved(small, "cpu", rounds)
    found.not_run |= dict.fromkeys((*model_versions.ON_A_GPU, *model_peers.PEERS), NO_GPU)
    made |= results(found, {}, more, small.batch * small.length)
    made["reduced"] = {
        "config": dict(small.model.config),
        "layers": small.layers,
        "length": small.length,
        "filled": small.filled,
        "dtype": str(small.dtype).removeprefix("torch."),
    }
    made["compile_s"] = model_compile.compile_times(case, "cpu", folder)
    return made


def failed_row(case: Case, error: Exception) -> dict[str, Any]:
    """A case that could not even be checked."""
    found = Found(not_run={"every version": versions.reason_of(error)})
    more = {"checked": "", "kernels": {}, "compiled": {}}
    lacking: dict[str, Any] = {"not_measured": {}, "share_of_ceiling": {}}
    return facts_of(case) | results(found, {}, more, tokens=1) | lacking


# --- the command ----------------------------------------------------------------------------------


def chosen(only: str, quick: bool, device: str) -> list[Case]:
    """The cases of such a title or model; with `quick` the smallest sizes."""
    if device == "cpu":
        every = model_cases.counted_cases()
    else:
        every = model_cases.gpu_cases(torch.cuda.get_device_properties(0).total_memory)
    return [
        case
        for case in every
        if pieces.matches(only, case.title, case.model.name)
        and (not quick or case.title.endswith(QUICK))
    ]


def measured(
    cases: Sequence[Case], device: str, rounds: int, ceiling: Mapping[str, float]
) -> Iterator[dict[str, Any]]:
    """The rows."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder
        make: Callable[[Case], dict[str, Any]] = (
            functools.partial(cpu_row, rounds=rounds, folder=folder)
            if device == "cpu"
            else functools.partial(gpu_row, rounds=rounds, ceiling=ceiling, folder=folder)
        )
        for case in track(cases, "models"):
            try:
                yield make(case)
            except RuntimeError as error:  # no memory to check it, say
                yield failed_row(case, error)


def run(arguments: Sequence[str] | None = None) -> pieces.Record:
    """Measure the cases; each row is saved when it is there."""
    parser = argparse.ArgumentParser(prog="bench.models", description="Whole models.")
    pieces.add_arguments(parser, "cases of such a title or model")
    parser.add_argument(
        "--hub", action="store_true", help="let Hugging Face's `kernels` download from its hub"
    )
    given = parser.parse_args(arguments)
    if not given.hub:
        os.environ["HF_HUB_OFFLINE"] = "1"
    device = pieces.device()
    rounds = given.rounds or (10 if device == "cpu" else 20)
    cases = chosen(given.only, given.quick, device)
    if not cases:
        sys.exit(f"bench.models: no case or model is called {given.only}")
    ceiling = {} if device == "cpu" else gpu_timer.ceilings()
    settings = {**vars(given), "rounds": rounds}
    record = pieces.Record("models", not given.no_save, settings=settings, ceilings=ceiling)
    if given.resume:
        cases = [case for case in cases if not record.has(case.title)]
    for found in measured(cases, device, rounds, ceiling):
        record.add(found)
    return record


def main() -> None:
    """Measure, and print a table."""
    record = run()
    print(report(record.rows))
    print(record.done())


if __name__ == "__main__":
    main()
