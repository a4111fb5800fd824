"""A bench that runs in pieces: rows of several runs in one result file, each with its run.

`runs` of the file has the command, commit, date, machine, versions and settings of each run; `run`
of a row is the index of its own. A case that is measured again on the same device replaces its row.
A run that no row is left of is dropped.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from bench import result_file

KEY = ("case", "step", "device")
"""What tells rows apart."""


def add_arguments(parser: argparse.ArgumentParser, of: str) -> None:
    """Those of every bench that runs in pieces."""
    parser.add_argument("--rounds", type=int, help="of every version; at least 2")
    parser.add_argument("--only", default="*", metavar="GLOB", help=of)
    parser.add_argument("--quick", action="store_true", help="few cases")
    parser.add_argument("--resume", action="store_true", help="leave out what this commit has")
    parser.add_argument("--no-save", action="store_true", help="print only")


def device() -> str:
    """Where cases run: "cuda" where there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def matches(glob: str, *names: str) -> bool:
    """Whether one of the names is such a name."""
    return any(fnmatch.fnmatchcase(name, glob) for name in names)


class Record:
    """The result file of a bench, into which rows of this run are merged one by one.

    facts: of this run, beside the usual ones (settings, ceilings). saves: whether to write at all.
    """

    def __init__(self, bench: str, saves: bool, **facts: Any) -> None:
        self.path = result_file.RESULTS / f"{bench}.json"
        self.saves = saves
        self.rows: list[Mapping[str, Any]] = []
        self._before = read(self.path)
        self._top = {"bench": bench, **result_file.circumstances(bench)}
        self._run = {**self._top, "threads": torch.get_num_threads(), **facts}

    def add(self, row: Mapping[str, Any]) -> None:
        """Nothing that was measured is lost when a later case fails or the time is up."""
        self.rows.append(row)
        if self.saves:
            merged = merge(self._before, self.rows, self._run)
            result_file.write(self.path, {**self._top, **merged})

    def has(self, case: str, step: str | None = None) -> bool:
        """Whether the file has the case, measured at this commit on such a device."""
        device = self._run["machine"].get("gpu", "cpu")
        wanted = (case, step, device)
        return any(
            key(row) == wanted and self._before["runs"][row["run"]]["commit"] == self._run["commit"]
            for row in self._before.get("rows", ())
        )

    def done(self) -> str:
        """What was saved, in a sentence."""
        if not self.saves:
            return f"{len(self.rows)} rows, not saved"
        return f"saved {self.path.relative_to(result_file.ROOT)}: {len(self.rows)} rows measured"


def read(path: Path) -> Mapping[str, Any]:
    """What is there; empty if nothing is."""
    found: Mapping[str, Any] = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    return found


def merge(
    before: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], run: Mapping[str, Any]
) -> dict[str, Any]:
    """`runs` and `rows`. Rows that are there keep their place; new ones follow."""
    device = run["machine"].get("gpu", "cpu")
    runs = [*before.get("runs", ()), run]
    kept = {key(row): dict(row) for row in before.get("rows", ())}
    for row in rows:
        made = {**row, "device": device, "run": len(runs) - 1}
        kept[key(made)] = made
    used = sorted({row["run"] for row in kept.values()})
    numbers = {old: new for new, old in enumerate(used)}
    renumbered = [{**row, "run": numbers[row["run"]]} for row in kept.values()]
    return {"runs": [runs[old] for old in used], "rows": renumbered}


def key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """What tells the row from others."""
    return tuple(row.get(name) for name in KEY)
