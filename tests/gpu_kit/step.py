"""One step of the check in a process of its own: `python -m tests.gpu_kit.step NAME FILE`.

A fault of a kernel makes the process's CUDA context useless: the steps after it have another one.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.gpu_kit.outcome import Outcome


def first_launch() -> Outcome:
    from tests.gpu_kit import check, first_launch

    return first_launch.run(check.kit().get("arch", ""))


def launch_overhead() -> Outcome:
    from bench import launch_overhead

    rows, driver = launch_overhead.measured(rounds=30, repeats=1000)
    return Outcome(f"\n{launch_overhead.report(rows)}", (), rows, {"driver": driver})


def fusions() -> Outcome:
    from bench import fusion_table, fusions

    record = fusions.run(["--quick"])
    return Outcome(
        f"\n{fusion_table.report(record.rows)}", fusions.problems(record.rows), record.rows
    )


def in_module(name: str) -> Callable[[], Outcome]:
    """`run` of a module of this package, imported when it is called."""

    def run() -> Outcome:
        found: Outcome = importlib.import_module(f"tests.gpu_kit.{name}").run()
        return found

    return run


STEPS: Mapping[str, tuple[Callable[[], Outcome], int]] = {
    "first_launch": (first_launch, 180),
    "parity": (in_module("parity"), 600),
    "graphs": (in_module("graphs"), 180),
    "marked_tests": (in_module("marked_tests"), 900),
    "launch_overhead": (launch_overhead, 300),
    "fusions": (fusions, 900),
    "sanitizer": (in_module("sanitizer"), 600),
}
"""In order: what runs, and after how many seconds it is stopped. Nothing runs without the first."""


if __name__ == "__main__":
    step, file = sys.argv[1:]
    outcome = STEPS[step][0]()
    Path(file).write_text(json.dumps(dataclasses.asdict(outcome)), encoding="utf-8")
