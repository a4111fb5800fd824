"""Attention as models write it: `backend="tilegym"` against everything else there is.

The cases are those of `attention_cases`; without a GPU smaller ones. The versions are timed turn by
turn in one run; `again` is tilegym a second time: its ratio is the noise. Every version is held to
the budget against float64 (`attention_check`): one that is wrong is void, and has no ratio. Rates
count only the pairs, or the keys, that the mask shows; on a GPU they are held against ceilings that
the same run measures.
"""

from __future__ import annotations

import argparse
import fnmatch
import functools
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import torch

import tile_backend
from bench import (
    attention_cases,
    attention_versions,
    fresh_process,
    gpu_timer,
    result_file,
    versions,
)
from bench.attention_cases import Case
from bench.attention_check import part_of
from bench.attention_table import report
from bench.attention_versions import Maker
from bench.versions import Found, Step, significant
from tile_backend import step_memory
from tile_backend.lowering.budget import Verdict
from tile_backend.lowering.progress import track

IN_A_PROCESS = ("tilegym", "inductor")
"""The versions whose memory on a CPU is measured, each in a process of its own."""


def steps_of(case: Case, device: str, found: Found) -> dict[str, Step]:
    """A warm step for each version; its verdict, and its memory on a GPU, go into `found`."""
    inputs = case.inputs(device)
    slope = torch.randn_like(inputs[0]) if case.train else None
    part = part_of(case, inputs, slope)

    def ready(make: Maker) -> tuple[Step, Verdict]:
        step = functools.partial(attention_versions.outcome, make(case, inputs), inputs, slope)
        return step, part.verdict(step())

    every = attention_versions.makers(device).items()
    makers = {name: functools.partial(ready, make) for name, make in every}
    return versions.warm_steps(makers, device, found, what_ran)


def what_ran() -> dict[str, str]:
    """At the attention of the newest compile, as its report says."""
    found = tile_backend.last_report()
    sites = [site for site in found.sites if site.fusion == "attention"] if found else []
    if len(sites) != 1:
        return {"decision": f"{len(sites)} sites of attention"}
    (site,) = sites
    if site.decision is None:
        return {"decision": site.status, "evidence": str(site.reason)}
    respelled = " respelled" if site.decision.respelled else ""
    ran = {
        "decision": f"{site.decision}{respelled}",
        "mask": str(site.bindings.get("mask")),
        "evidence": site.decision.evidence,
    }
    return ran | ({"fallback": site.fallback.text} if site.fallback else {})


def cpu_peak_mib(title: str, backend: str) -> float:
    """The same of this process, which must be a fresh one."""
    (case,) = (case for case in attention_cases.cpu_cases() if case.title == title)
    inputs = case.inputs("cpu")
    slope = torch.randn_like(inputs[0]) if case.train else None
    function = attention_versions.compiled(backend, case, inputs)
    for _ in range(2):
        attention_versions.outcome(function, inputs, slope)
    return step_memory.cpu_peak_mib(lambda: attention_versions.outcome(function, inputs, slope))


def measure(case: Case, device: str, rounds: int, cache: str) -> Found:
    """Everything about one case. cache: the folder of Inductor's caches."""
    torch.compiler.reset()
    found = Found()
    steps = steps_of(case, device, found)
    if device != "cpu":
        found.times = versions.time_on_device(steps, rounds, found)
        return found
    found.times = versions.time_on_host(steps, rounds)
    for name in IN_A_PROCESS:
        if name in steps:
            found.peaks[name] = fresh_process.call(
                "bench.attention", "cpu_peak_mib", case.title, name, cache=cache
            )
    return found


def row(case: Case, found: Found, ceiling: Mapping[str, float]) -> dict[str, Any]:
    """What was found, and rates: of bytes in decoding, else of products."""
    work, unit = (case.bytes, "bytes_per_us") if case.decodes else (case.flop, "flop_per_us")
    facts = found.facts()
    rates = {name: work / facts["time_us"][name]["median"] for name in found.good}
    made = {
        "case": case.title,
        "mask": case.mask,
        "step": case.step,
        **facts,
        "gb_per_s" if case.decodes else "tflop_per_s": {
            name: significant(rate / (1e3 if case.decodes else 1e6)) for name, rate in rates.items()
        },
    }
    if ceiling:
        shares = {name: significant(rate / ceiling[unit]) for name, rate in rates.items()}
        made["share_of_ceiling"] = shares
    return made


def measure_all(cases: Sequence[Case], device: str, rounds: int) -> tuple[list[Any], Any]:
    """The rows, and the ceilings they are measured against."""
    ceiling = gpu_timer.ceilings() if device != "cpu" else {}
    with tempfile.TemporaryDirectory() as cache:
        # For fresh processes too: they find what is compiled here.
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        tracked = track(cases, "attention")
        rows = [row(case, measure(case, device, rounds, cache), ceiling) for case in tracked]
    return rows, ceiling


def main() -> None:
    """Measure every case and save the result."""
    parser = argparse.ArgumentParser(description="Attention as models write it.")
    parser.add_argument("--rounds", type=int, help="default: 50, without a GPU 5; at least 2")
    parser.add_argument("--only", default="*", metavar="GLOB", help="cases of such a title")
    parser.add_argument("--no-save", action="store_true", help="print only")
    given = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    every = attention_cases.cpu_cases() if device == "cpu" else attention_cases.gpu_cases()
    cases = [case for case in every if fnmatch.fnmatchcase(case.title, given.only)]
    if not cases:
        sys.exit(f"bench.attention: no case is called {given.only}: {[c.title for c in every]}")
    rounds = given.rounds or (5 if device == "cpu" else 50)
    rows, ceiling = measure_all(cases, device, rounds)
    if not given.no_save:
        facts = {"settings": {**vars(given), "rounds": rounds}, "device": device}
        threads = torch.get_num_threads()
        path = result_file.save("attention", rows, threads=threads, ceilings=ceiling, **facts)
        print(f"saved {path.relative_to(result_file.ROOT)}")
    print(report(rows))


if __name__ == "__main__":
    main()
