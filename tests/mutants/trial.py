"""One run of some tests in a forked process, with a mutant or without one.

The parent has imported torch and pytest and nothing of ours, so the child imports the mutated
module in place of the real one. Its compile caches are its own: no graph or kernel of other code is
read. Traced patterns are, those of the run without a mutant, where the mutant has no part in them.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

import pytest

from tests.mutants import hook
from tests.mutants.mutant import ROOT, Mutant, Stale
from tests.sampling import ALL_CASES

IMPLAUSIBLE = ("NameError", "UnboundLocalError", "SyntaxError", "ImportError")
"""A test that fails with these has met a typing error, no other program."""
OURS = ("tile_backend", "tests", "bench", "conftest", "__main__")
FAILED = 1
"""pytest's exit status where tests ran and one failed."""


@dataclasses.dataclass(frozen=True)
class Result:
    """outcome: killed, survived, stale, crashed or timed out. by: the tests that failed.

    text: what is said of it beside that.
    """

    outcome: str
    by: tuple[str, ...] = ()
    text: str = ""
    modules: tuple[str, ...] = ()
    """What the process has imported that is not ours, where it had no mutant."""


class Notes:
    """A plugin of pytest: how many tests passed, which failed and with what."""

    def __init__(self) -> None:
        self.passed = 0
        self.failed: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.passed += report.when == "call" and report.passed
        if report.failed:
            self.failed.setdefault(report.nodeid, report.longreprtext)


def inside(mutant: Mutant | None, tests: tuple[str, ...], folder: Path) -> None:
    """The child: runs the tests, all of them where there is no mutant, and leaves the result."""
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder / "inductor")
    try:
        if mutant is not None:
            hook.install(mutant)
        notes = Notes()
        quick = [] if mutant is None else ["-x"]
        unused = [f"-pno:{name}" for name in ("xdist", "cacheprovider", "hypothesispytest")]
        options = ["-q", "-m", ALL_CASES, *quick, *unused, f"--rootdir={ROOT}"]
        status = int(pytest.main([*options, *tests], plugins=[notes]))
        result = judged(status, notes)
        if mutant is None:
            theirs = (name for name in sys.modules if name.partition(".")[0] not in OURS)
            result = dataclasses.replace(result, modules=tuple(theirs))
    except Stale as stale:
        result = Result("stale", text=str(stale))
    except BaseException as error:  # noqa: BLE001 - a mutant may raise anything when imported
        traceback.print_exc()
        result = Result("crashed", text=f"{type(error).__name__}: {error}")
    (folder / "result.json").write_text(json.dumps(dataclasses.asdict(result)), encoding="utf-8")


def judged(status: int, notes: Notes) -> Result:
    """Of what pytest did."""
    failed = tuple(notes.failed)
    if status == 0 and notes.passed:
        return Result("survived")
    if status != FAILED or not failed:
        return Result("crashed", failed, f"pytest ended with {status}")
    report = notes.failed[failed[0]]
    odd = next((name for name in IMPLAUSIBLE if f"{name}: " in report), None)
    return Result("crashed", failed, odd) if odd else Result("killed", failed)


def fork(mutant: Mutant | None, tests: tuple[str, ...], folder: Path) -> int:
    """Starts the child, in a process group of its own; its id."""
    folder.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    try:
        os.setsid()
        log = os.open(folder / "log.txt", os.O_WRONLY | os.O_CREAT)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.chdir(ROOT)
        inside(mutant, tests, folder)
        sys.stdout.flush()
    finally:
        os._exit(0)  # what the parent wants to do at its end is not for the child


def left(folder: Path) -> Result:
    """What the child left."""
    file = folder / "result.json"
    if not file.is_file():
        return Result("crashed", text="the process ended without a result")
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return Result(found["outcome"], tuple(found["by"]), found["text"], tuple(found["modules"]))
