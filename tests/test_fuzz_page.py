"""docs/fuzz.md says what bench/results/fuzz.json holds: many programs, none of them wrong."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from tests.fuzz import __main__ as fuzz
from tests.fuzz import page
from tests.fuzz.tally import Failure, Tally
from tile_backend.lowering.reason import ReasonKind

SEED = 7
ROW = argparse.Namespace(seed=SEED, resume=True, programs=2 * fuzz.SIZE, processes=1)


def test_the_page_is_of_the_outcome() -> None:
    outcome = json.loads(fuzz.OUTCOME.read_text(encoding="utf-8"))
    assert page.PAGE.read_text(encoding="utf-8") == page.written(outcome)


def test_no_program_is_wrong() -> None:
    tally = Tally.from_json(json.loads(fuzz.OUTCOME.read_text(encoding="utf-8"))["tally"])
    assert not tally.failures
    assert tally.programs == sum(tally.verdicts.values()) == sum(tally.commits.values())
    assert all(kind.startswith("right") or kind == page.REFUSED for kind in tally.verdicts)
    assert tally.verdicts["right"] > 0.85 * tally.programs
    assert {words.split()[1] for words in tally.declined} <= {kind.value for kind in ReasonKind}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(fuzz, "FOLDER", tmp_path)
    monkeypatch.setattr(fuzz, "OUTCOME", tmp_path / "fuzz.json")
    return tmp_path


def kept(folder: Path, commit: str, start: int, tally: Tally) -> None:
    fuzz.result_file.write(folder / f"{commit}-{SEED}" / f"{start:08}.json", tally.to_json())


def test_what_was_wrong_is_tried_again_and_what_was_right_is_not(folder: Path) -> None:
    """With --resume chunks of earlier commits count, and keep the name of their commit."""
    wrong = Failure(3, "graph always", "wrong result", "result x", "script")
    kept(folder, "first", 0, Tally(programs=fuzz.SIZE, commits={"first": fuzz.SIZE}))  # type: ignore[arg-type]
    kept(folder, "first", fuzz.SIZE, Tally(programs=fuzz.SIZE, failures=[wrong]))
    now = folder / f"now-{SEED}"
    first = fuzz.finished(ROW, now, 0)
    assert first is not None
    assert first.commits == {"first": fuzz.SIZE}
    assert fuzz.finished(ROW, now, fuzz.SIZE) is None
    ours = fuzz.finished(ROW, folder / f"first-{SEED}", fuzz.SIZE)
    assert ours is not None
    assert ours.failures == [wrong]
    alone = argparse.Namespace(**{**vars(ROW), "resume": False})
    assert fuzz.finished(alone, now, 0) is None


@pytest.mark.parametrize(
    ("change", "programs"),
    (
        ({}, 500),
        ({"resume": False}, 0),
        ({"seed": SEED + 1}, 0),
    ),
    ids=("resumed", "anew", "another row"),
)
def test_an_outcome_is_added_to(folder: Path, change: dict[str, object], programs: int) -> None:
    tally = Tally(programs=500)
    tally.commits["first"] = tally.verdicts["right"] = 500
    fuzz.result_file.write(folder / "fuzz.json", {"seed": SEED, "tally": tally.to_json()})
    arguments = argparse.Namespace(**{**vars(ROW), **change})
    assert fuzz.saved_before(arguments).programs == programs
