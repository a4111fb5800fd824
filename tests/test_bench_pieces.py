"""Rows of several runs in one result file, each with its run."""

from __future__ import annotations

from typing import Any

from bench import pieces


def run_of(commit: str, **machine: str) -> dict[str, Any]:
    return {"commit": commit, "machine": machine}


def test_pieces_are_merged_with_the_run_of_each_row() -> None:
    first = pieces.merge({}, [{"case": "a", "n": 1}, {"case": "b", "n": 1}], run_of("1"))
    second = pieces.merge(first, [{"case": "b", "n": 2}, {"case": "c", "n": 2}], run_of("2"))
    assert [(r["case"], r["n"], r["run"]) for r in second["rows"]] == [
        ("a", 1, 0),
        ("b", 2, 1),
        ("c", 2, 1),
    ]
    assert [run["commit"] for run in second["runs"]] == ["1", "2"]
    elsewhere = pieces.merge(second, [{"case": "a", "n": 3}], run_of("3", gpu="H200"))
    assert [(r["case"], r["device"]) for r in elsewhere["rows"]][-1] == ("a", "H200")
    assert len(elsewhere["rows"]) == 4
    last = pieces.merge(second, [{"case": "a", "n": 4}], run_of("4"))
    assert [run["commit"] for run in last["runs"]] == ["2", "4"]
    assert [(r["case"], r["run"]) for r in last["rows"]] == [("a", 1), ("b", 0), ("c", 0)]
