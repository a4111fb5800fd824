"""What came out, as rows of `bench/results/mutants.json`, each with the commit that it is of.

A run of some mutants replaces their rows; rows of mutants that are gone are dropped.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tests.mutants.catalogue import AREAS, area_of
from tests.mutants.mutant import ROOT, Mutant
from tests.mutants.trial import Result

NAME = "mutants"
FILE = ROOT / "bench" / "results" / f"{NAME}.json"
EXPECTED = {True: "survived", False: "killed"}
"""By whether the mutant is said to be equal."""


def is_right(mutant: Mutant, outcome: str) -> bool:
    """Killed, or said to be equal and not noticed."""
    return outcome == EXPECTED[bool(mutant.equal)]


def known() -> dict[str, dict[str, Any]]:
    """The rows that are saved, by name."""
    if not FILE.is_file():
        return {}
    rows: list[dict[str, Any]] = json.loads(FILE.read_text(encoding="utf-8"))["rows"]
    return {row["name"]: row for row in rows}


def row(mutant: Mutant, result: Result, commit: str) -> dict[str, Any]:
    return {
        "area": area_of(mutant),
        "name": mutant.name,
        **mutant.change(),
        "outcome": result.outcome,
        "by": result.by[0] if result.by else "",
        "commit": commit,
    }


def save(mutants: Sequence[Mutant], results: Mapping[str, Result]) -> None:
    """Writes the file, and the page that is made of it."""
    from bench import result_file  # imports our package, which no child may have before it starts
    from tests.mutants import page

    commit, rows = result_file.commit(), known()
    rows |= {m.name: row(m, results[m.name], commit) for m in mutants}
    ordered = [rows[m.name] for area in AREAS.values() for m in area.mutants if m.name in rows]
    result_file.save(NAME, ordered, command="make mutants")
    page.PAGE.write_text(page.written(ordered), encoding="utf-8")
