"""The list of mutants fits the code, its outcome fits the list, and a few of them are run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mutants import outcome, page, trial
from tests.mutants.catalogue import AREAS, MUTANTS, QUICK
from tests.mutants.mutant import ROOT, Mutant, Stale

AGAIN = 'run make mutants ARGS="--only {}"'


def test_names_are_their_own() -> None:
    names = [mutant.name for mutant in MUTANTS]
    assert len(set(names)) == len(names) >= 60
    assert all(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name) for name in names)
    assert all(area.mutants for area in AREAS.values())


@pytest.mark.parametrize("area", AREAS)
def test_every_text_is_in_its_file_once(area: str) -> None:
    """And what it becomes is Python, and something else."""
    for mutant in AREAS[area].mutants:
        assert mutant.old != mutant.new, mutant.name
        compile(mutant.mutated(), mutant.file, "exec")


def test_every_test_of_a_mutant_exists() -> None:
    for mutant in MUTANTS:
        assert mutant.tests, mutant.name
        for test in mutant.tests:
            file, _, function = test.partition("::")
            source = (ROOT / file).read_text(encoding="utf-8")
            name = function.partition("[")[0]
            assert f"def {name}" in source, f"{mutant.name}: {test}"


def test_a_text_that_is_gone_is_stale() -> None:
    for old in ("no such text anywhere", "import"):
        gone = Mutant("gone", "lowering/legality.py", old, "", ("tests/test_mutants.py",))
        with pytest.raises(Stale, match="lowering/legality.py has the text of gone"):
            gone.mutated()


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_every_mutant_was_run_as_it_is_and_noticed(mutant: Mutant) -> None:
    row = outcome.known().get(mutant.name)
    assert row is not None, AGAIN.format(mutant.name)
    assert {name: row[name] for name in mutant.change()} == mutant.change(), AGAIN.format(
        mutant.name
    )
    assert outcome.is_right(mutant, row["outcome"]), f"{mutant.name}: {row['outcome']}"
    assert mutant.equal or row["by"].startswith("tests/test_")


def test_the_page_is_what_came_out() -> None:
    rows = list(outcome.known().values())
    assert [row["name"] for row in rows] == [mutant.name for mutant in MUTANTS]
    assert page.PAGE.read_text(encoding="utf-8") == page.written(rows), "run make mutants"


def test_a_few_are_noticed_now(tmp_path: Path) -> None:
    """In a process of its own: this one has imported the code as it is."""
    chosen = [argument for name in QUICK for argument in ("--only", name)]
    command = [sys.executable, "-m", "tests.mutants", "--no-save", "--jobs", "1", *chosen]
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(": killed by ") == len(QUICK)


# --- what becomes of a run ------------------------------------------------------------------------


def notes(passed: int, **failed: str) -> trial.Notes:
    made = trial.Notes()
    made.passed, made.failed = passed, failed
    return made


def test_only_a_test_that_fails_kills() -> None:
    judged = {
        "survived": trial.judged(0, notes(3)),
        "killed": trial.judged(1, notes(1, test_x="AssertionError: 1 is 2")),
        "nothing ran": trial.judged(0, notes(0)),
        "no test was found": trial.judged(4, notes(0)),
        "it could not be imported": trial.judged(2, notes(0, test_file="SyntaxError: no")),
        "a name is not there": trial.judged(1, notes(1, test_x="InternalFailure: NameError: x")),
    }
    assert [result.outcome for result in judged.values()] == [
        "survived", "killed", "crashed", "crashed", "crashed", "crashed",
    ]  # fmt: skip
    assert judged["killed"].by == ("test_x",)


def test_one_that_is_said_to_be_equal_has_to_survive() -> None:
    file, tests = "lowering/legality.py", ("tests/test_mutants.py",)
    plain, equal = Mutant("a", file, "x", "y", tests), Mutant("b", file, "x", "y", tests, "because")
    outcomes = ("killed", "survived", "crashed", "timed out", "stale")
    assert [outcome.is_right(plain, found) for found in outcomes] == [True, *[False] * 4]
    assert [outcome.is_right(equal, found) for found in outcomes] == [False, True, *[False] * 3]
