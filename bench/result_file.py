"""One JSON file per bench in `bench/results/`: what ran, where, on which commit, and its rows.

A number without its machine, versions, command and commit is not a result.
"""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tile_backend import machine as tile_machine

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results"
KIT = ROOT / "kit.json"
DISTRIBUTIONS = ("torch", "triton", "transformers", "tile-backend", "cuda-tile")


def save(name: str, rows: Sequence[Mapping[str, Any]], **facts: Any) -> Path:
    """Write `bench/results/<name>.json`. facts: settings and conclusions beside the rows."""
    return save_in(RESULTS, name, rows, **facts)


def save_in(folder: Path, name: str, rows: Sequence[Mapping[str, Any]], **facts: Any) -> Path:
    """The same in another folder."""
    content = {"bench": name, **circumstances(name), **facts, "rows": list(rows)}
    return write(folder / f"{name}.json", content)


def circumstances(name: str) -> dict[str, Any]:
    """Command, commit, date, machine and versions of this process, which runs that bench."""
    return {
        "command": shlex.join(("python", "-m", f"bench.{name}", *sys.argv[1:])),
        "commit": commit(),
        "date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": versions(),
    }


def write(path: Path, content: Mapping[str, Any]) -> Path:
    """As JSON; the folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return path


def commit() -> str:
    """The commit that ran, with "+changes" if tracked files other than results differ from it."""
    if KIT.is_file():  # packed by `make gpu-kit`, which asked git
        return str(json.loads(KIT.read_text(encoding="utf-8"))["commit"])
    changes = git("status", "--porcelain", "--untracked-files=no", ":!bench/results")
    return git("rev-parse", "HEAD") + ("+changes" if changes else "")


def git(*arguments: str) -> str:
    """What git prints, stripped."""
    command = ("git", "-C", str(ROOT), *arguments)
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def machine() -> dict[str, Any]:
    """The processor, the cores this process may use, the load before it adds its own; the GPU."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": models[0] if models else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "load": round(os.getloadavg()[0], 2),
        "system": platform.platform(),
        **gpu(),
    }


def gpu() -> dict[str, Any]:
    """Name, architecture, multiprocessors, memory and driver of the first; {} without one."""
    if not (gpus := tile_machine.gpus()):
        return {}
    import torch

    facts = torch.cuda.get_device_properties(0)
    return {
        "gpu": facts.name,
        "gpus": len(gpus),
        "architecture": gpus[0].arch,
        "multiprocessors": facts.multi_processor_count,
        "memory_gib": round(facts.total_memory / 2**30, 1),
        "driver": tile_machine.driver_version(),
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


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Right-aligned columns under their names."""
    cells = [list(map(str, row)) for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in cells
    )
