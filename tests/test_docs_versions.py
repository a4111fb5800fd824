"""docs/versions.md says what the saved outcomes say."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tile_backend import supported

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results"
PAGE = (ROOT / "docs" / "versions.md").read_text(encoding="utf-8")


def saved() -> Iterator[tuple[Path, dict[str, Any]]]:
    for path in sorted(RESULTS.glob("test_*.json")):
        yield path, json.loads(path.read_text(encoding="utf-8"))


def row(path: Path, found: dict[str, Any]) -> str:
    """A line of the table."""
    versions, totals = found["versions"], found["totals"]
    names = (versions[name].partition("+")[0] for name in ("torch", "transformers", "python"))
    counts = (totals["passed"], totals["failed"] + totals["error"], totals["skipped"])
    link = f"[`{found['command']}`](../bench/results/{path.name})"
    return f"| {' | '.join(map(str, (*names, *counts, link)))} |"


def test_the_table_is_what_was_measured() -> None:
    table = [line for line in PAGE.splitlines() if "../bench/results/" in line]
    assert table == [row(path, found) for path, found in saved()]


def test_the_oldest_and_the_newest_supported_versions_were_tested() -> None:
    torches = {supported.major_minor(found["versions"]["torch"]) for _, found in saved()}
    transformers = {
        supported.major_minor(found["versions"]["transformers"]) for _, found in saved()
    }
    assert set(supported.TORCH) <= torches
    assert set(supported.TRANSFORMERS) <= transformers
    assert all(found["totals"]["failed"] == found["totals"]["error"] == 0 for _, found in saved())
