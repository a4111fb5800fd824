"""Launches, bytes, loops and graph nodes of small models are those of bench/results, and our passes
make few of a compile's function calls.

Fewer is progress, more has to be wanted: run `python -m bench.static_counters` and say why.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from bench import result_file, static_counters

SAVED: dict[str, Any] = json.loads((result_file.RESULTS / "static_counters.json").read_text())
ROWS = {(row["case"], row["mode"]): row for row in SAVED["rows"]}
IN_CI = ("llama",)
CASES = [
    pytest.param(
        model, mode, id=f"{model}-{mode}", marks=() if model in IN_CI else pytest.mark.full
    )
    for model in static_counters.MODELS
    for mode in static_counters.MODES
]


def comparable() -> bool:
    """Graphs differ between versions of torch and Transformers."""
    return all(
        SAVED["versions"][name] == result_file.versions()[name]
        for name in ("torch", "transformers")
    )


@pytest.mark.parametrize(("model", "mode"), CASES)
def test_counters_are_the_saved_ones(model: str, mode: str) -> None:
    """`make test` counts calls of inference only."""
    with_calls = model not in IN_CI or mode == "inference"
    found, saved = static_counters.counters(model, mode, with_calls), dict(ROWS[model, mode])
    assert 0 < static_counters.share(saved) <= static_counters.MOST_CALLS
    if with_calls:
        assert 0 < static_counters.share(found) <= static_counters.MOST_CALLS
        del found["calls"]
    del saved["calls"]
    if comparable():
        assert found == saved
    else:
        assert found["sites"] == saved["sites"]
        assert found["nodes"] < found["plain_nodes"]
        assert 0 < found["launches"] < 2 * saved["launches"]


def test_every_case_is_saved() -> None:
    modes = static_counters.MODES
    assert list(ROWS) == [(model, mode) for model in static_counters.MODELS for mode in modes]


@pytest.mark.full
@pytest.mark.parametrize("model", IN_CI)
def test_our_share_of_the_calls_of_training(model: str) -> None:
    """Which `make test` leaves uncounted."""
    found = static_counters.counters(model, "training")
    assert 0 < static_counters.share(found) <= static_counters.MOST_CALLS
