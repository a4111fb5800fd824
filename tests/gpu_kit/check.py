"""`make gpu-check`: proves the kernels on this machine's GPU, and writes what it found as JSON.

Each step runs in a process of its own; what fails there, crashes or takes too long is one row of
the result, and the next step runs. The file is written after each step, so nothing is lost.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import result_file
from tests.gpu_kit import compiler
from tests.gpu_kit.step import STEPS

LAST_LINES = 30
"""Of a step's output, kept where it fails."""


def kit() -> Mapping[str, Any]:
    """The manifest of the kit that this runs from; empty in a checkout."""
    manifest = result_file.ROOT / "kit.json"
    found: dict[str, Any] = json.loads(manifest.read_text()) if manifest.is_file() else {}
    return found


def environment() -> dict[str, str]:
    """Of the steps: in a kit its kernels, and its compiler if it has one."""
    if not kit():
        return dict(os.environ)
    store = {"TILEGYM_KERNEL_STORE": str(result_file.ROOT / "kernels")}
    return {**os.environ, **store, **compiler.environment(result_file.ROOT)}


def run_step(name: str, command: Sequence[str], limit: float) -> dict[str, Any]:
    """One row of the result. command: writes an Outcome to the file named by its last argument."""
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        log, file = Path(folder, "log"), Path(folder, "outcome.json")
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*command, str(file)],
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment(),
                cwd=result_file.ROOT,
                start_new_session=True,
            )
            try:
                code: int | None = process.wait(limit)
            except subprocess.TimeoutExpired:
                code = None
            finally:  # also when we are interrupted; what the step started goes with it
                if process.returncode is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
        seconds = round(time.monotonic() - begin, 1)
        row = {"step": name, "seconds": seconds}
        if code == 0 and file.is_file():
            found = json.loads(file.read_text(encoding="utf-8"))
            return {**row, "passed": not found["problems"], **found}
        how = f"was stopped after {limit:g} s" if code is None else f"ended with status {code}"
        tail = log.read_text(encoding="utf-8", errors="replace").splitlines()[-LAST_LINES:]
        return {**row, "passed": False, "summary": how, "problems": ["\n".join(tail)]}


def run_steps(names: Sequence[str], out: Path) -> list[dict[str, Any]]:
    """The rows; printed and saved as they come. After a failed first launch nothing else runs."""
    rows: list[dict[str, Any]] = []
    for name in names:
        command = (sys.executable, "-m", "tests.gpu_kit.step", name)
        rows.append(row := run_step(name, command, STEPS[name][1]))
        verdict = "passed" if row["passed"] else "FAILED"
        print(f"{name:16} {verdict} in {row['seconds']} s: {row['summary']}", flush=True)
        for problem in row["problems"]:
            print(f"  {problem}", flush=True)
        settings = {"command": "make gpu-check", "arguments": sys.argv[1:], "kit": kit()}
        result_file.save_in(out, "gpu_check", rows, **settings)
        if name == "first_launch" and not row["passed"]:
            break
    return rows


def main() -> int:
    """The exit status: 1 where a step did not pass."""
    parser = argparse.ArgumentParser(
        prog="make gpu-check", description="Prove the kernels on a GPU."
    )
    parser.add_argument(
        "--only",
        nargs="+",
        choices=STEPS,
        default=list(STEPS),
        metavar="STEP",
        help=f"these steps alone: {' '.join(STEPS)}",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=result_file.RESULTS,
        help="the folder of gpu_check.json (default: bench/results)",
    )
    given = parser.parse_args()
    rows = run_steps(given.only, given.out)
    print(f"saved {given.out / 'gpu_check.json'}")
    return int(not all(row["passed"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
