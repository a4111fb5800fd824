"""bench.ratchet: what is beyond the spread is named, what is within it is not."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from bench import ratchet, result_file


def spread(median: float, by: float = 0.02) -> dict[str, float]:
    return {"median": median, "p10": median - by, "p90": median + by}


def result(**over: float) -> dict[str, Any]:
    ratios = {name: spread(value) for name, value in over.items()}
    row = {"case": "causal 4x1024", "step": "forward", "over_tilegym": ratios}
    return {
        "bench": "attention",
        "machine": {"processor": "EPYC", "cores": 2},
        "rows": [row, {**copy.deepcopy(row), "step": "forward and backward"}],
    }


def run(folder: Path, before: Any, after: Any) -> int:
    for name, content in (("a", before), ("b", after)):
        (folder / name).write_text(json.dumps(content))
    return ratchet.main([str(folder / "a"), str(folder / "b")])


@pytest.mark.parametrize(
    ("after", "status", "words"),
    (
        (1.5, 0, "2 figures: 0 worse, 0 better"),
        (1.49, 0, "2 figures: 0 worse, 0 better"),
        (1.3, 1, "2 figures: 2 worse, 0 better"),
        (1.7, 0, "2 figures: 0 worse, 2 better"),
    ),
)
def test_only_what_is_beyond_the_spread_counts(
    after: float, status: int, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = result(inductor=1.5, again=1.0), result(inductor=after, again=0.2)
    assert run(tmp_path, *given) == status
    assert capsys.readouterr().out.splitlines()[-1] == words


def test_the_figure_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, result(inductor=1.5), result(inductor=1.3)) == 1
    _, line, *_ = capsys.readouterr().out.splitlines()
    assert line.split() == [
        *("worse", "causal", "4x1024,", "forward", "over_tilegym", "inductor"),
        *("1.5", "(1.48..1.52)", "1.3", "(1.28..1.32)"),
    ]


def test_a_wide_spread_in_either_run_says_nothing() -> None:
    before, after = result(inductor=1.5), result(inductor=1.3)
    after["rows"][0]["over_tilegym"]["inductor"]["p90"] = 1.6
    verdicts = [change.verdict for change in ratchet.compare(before, after)]
    assert verdicts == ["", "worse"]


def test_what_was_not_measured_again_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    after = result(inductor=1.5)
    del after["rows"][1]
    assert run(tmp_path, result(inductor=1.5), after) == 0
    assert "not measured again: causal 4x1024, forward and backward" in capsys.readouterr().out


def test_times_are_compared_on_equal_machines_only() -> None:
    row = {"case": "norm", "graph_us": spread(2.0)}
    before = {**result(), "bench": "launch_overhead", "rows": [row]}
    slower = {**before, "rows": [{"case": "norm", "graph_us": spread(2.5)}]}
    assert [change.verdict for change in ratchet.compare(before, slower)] == ["worse"]
    slower["machine"] = {"processor": "Xeon", "cores": 2}
    with pytest.raises(ratchet.CannotCompareError, match="the machines differ: EPYC x2 no GPU and"):
        ratchet.compare(before, slower)


@pytest.mark.parametrize(
    ("content", "words"),
    (
        ("{", "cannot be read"),
        ("[]", "is no result of a bench"),
        (json.dumps({**result(), "bench": "test_full"}), "one is of bench.test_full"),
    ),
)
def test_what_cannot_be_compared_is_an_error(
    content: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a").write_text(content)
    (tmp_path / "b").write_text(json.dumps(result()))
    assert ratchet.main([str(tmp_path / "a"), str(tmp_path / "b")]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("name", ratchet.FIGURES)
def test_every_committed_result_has_its_figures(name: str) -> None:
    """Compared with itself nothing changes; with all figures tripled some do."""
    path = result_file.RESULTS / f"{name}.json"
    before = ratchet.load(path)
    same = ratchet.compare(before, before)
    assert same
    assert not any(change.verdict for change in same)
    assert not ratchet.lost(before, before)
    tripled = copy.deepcopy(dict(before))
    scale(tripled["rows"])
    changed = [change.verdict for change in ratchet.compare(before, tripled)]
    assert set(changed) <= {"worse", "better", ""}
    assert any(changed)


def scale(value: Any) -> None:
    """Times and ratios of a result times three, in place."""
    items = list(value.items() if isinstance(value, dict) else enumerate(value))
    for key, part in items:
        if isinstance(part, (dict, list)):
            if key != "inductor" or isinstance(part, dict):  # samples that others are divided by
                scale(part)
        elif isinstance(part, float) and key != "layers":
            value[key] = 3 * part
