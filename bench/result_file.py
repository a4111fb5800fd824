"""One JSON file per bench in `bench/results/`: what ran, where, on which commit, and its rows.

A number without its machine, versions, command and commit is not a result.
"""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results"
DISTRIBUTIONS = ("torch", "transformers", "tile-backend", "cuda-tile")


def save(name: str, rows: Sequence[Mapping[str, Any]], **facts: Any) -> Path:
    """Write `bench/results/<name>.json`. facts: settings and conclusions beside the rows."""
    content = {
        "bench": name,
        "command": " ".join(("python", "-m", f"bench.{name}", *sys.argv[1:])),
        "commit": commit(),
        "date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": versions(),
        **facts,
        "rows": list(rows),
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return path


def commit() -> str:
    """The commit that ran, with "+changes" if tracked files other than results differ from it."""
    changes = git("status", "--porcelain", "--untracked-files=no", ":!bench/results")
    return git("rev-parse", "HEAD") + ("+changes" if changes else "")


def git(*arguments: str) -> str:
    """What git prints, stripped."""
    command = ("git", "-C", str(ROOT), *arguments)
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def machine() -> dict[str, Any]:
    """The processor, the cores this process may use, and the load before it adds its own."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": models[0] if models else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "load": round(os.getloadavg()[0], 2),
        "system": platform.platform(),
    }


def versions() -> dict[str, str]:
    """Python and the distributions that decide what is compiled."""
    found = {"python": platform.python_version()}
    for name in DISTRIBUTIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, first and last decile."""
    deciles = statistics.quantiles(values, n=10, method="inclusive")
    return {"median": statistics.median(values), "p10": deciles[0], "p90": deciles[-1]}


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Right-aligned columns under their names."""
    cells = [list(map(str, row)) for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in cells
    )
