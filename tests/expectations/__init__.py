"""What is expected of each model in each scenario: JSON files in this folder, one for each model.

    {"float32 prefill model static": {"graphs": 1, "sites": {"attention": 2, ...}}, ...}

`python -m tests.expectations [NAME ...]` writes them from what is found; read the difference in
the review: a number that falls is a lost site. Scenarios with equal expectations share an entry.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent

Expected = Mapping[str, Any]
"""{"graphs": 1, "sites": {"rms_norm": 1}}"""


def load(name: str) -> dict[str, Expected]:
    """Scenario name -> what is expected."""
    entries = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return {
        scenario: {"graphs": entry["graphs"], "sites": entry["sites"]}
        for entry in entries
        for scenario in entry["scenarios"]
    }


def dumps(found: Mapping[str, Expected]) -> str:
    """The text of a file: entries in the order of their first scenario."""
    groups: dict[str, dict[str, Any]] = {}
    for scenario, expected in found.items():
        entry = groups.setdefault(json.dumps(expected), {"scenarios": [], **expected})
        entry["scenarios"].append(scenario)
    return json.dumps(list(groups.values()), indent=2) + "\n"


def save(name: str, found: Mapping[str, Expected]) -> None:
    (FOLDER / f"{name}.json").write_text(dumps(found), encoding="utf-8")
