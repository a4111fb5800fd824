"""Runs mutants, a few at a time, after the same tests have passed without any."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import importlib.util
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tests.mutants import trial
from tests.mutants.mutant import Mutant
from tests.mutants.trial import Result

MOST_SECONDS = 600
"""For one mutant. One that takes longer is an error: it was not noticed by a test."""
MOST_SECONDS_WITHOUT = 3600
"""For all tests without a mutant."""
AT_EACH_LOOK = 0.05
WITHOUT = "without-"
PATTERNS = Path("inductor", "tilegym")
"""Where a child keeps traced patterns."""


@dataclasses.dataclass(frozen=True)
class Started:
    """A child that runs."""

    mutant: Mutant
    folder: Path
    process: int
    since: float


def prepare() -> None:
    """Imports what every child would import, torch's own compiler among it, and nothing of ours."""
    import torch._dynamo
    import torch._inductor.compile_fx

    torch.set_num_threads(1)


def without(mutants: Sequence[Mutant], folder: Path, jobs: int) -> dict[str, str]:
    """Runs the tests of all of them on the code as it is: those that do not pass, with their log.

    In as many processes as there may be. What these have imported is imported here as well, so that
    no child has to: nothing of ours.
    """
    tests = list(dict.fromkeys(test for mutant in mutants for test in mutant.tests))
    parts = [tuple(tests[i::jobs]) for i in range(min(jobs, len(tests)))]
    places = [folder / f"{WITHOUT}{i}" for i in range(len(parts))]
    since, processes = (
        time.monotonic(),
        [trial.fork(None, *one) for one in zip(parts, places, strict=True)],
    )
    failing: dict[str, str] = {}
    for process, part, place in zip(processes, parts, places, strict=True):
        while (result := looked(process, place, since, MOST_SECONDS_WITHOUT)) is None:
            time.sleep(AT_EACH_LOOK)
        for name in result.modules:
            if name not in sys.modules and importlib.util.find_spec(name.partition(".")[0]):
                with contextlib.suppress(ImportError):  # a name that a package has made up
                    importlib.import_module(name)
        if result.outcome != "survived":
            log = (place / "log.txt").read_text(encoding="utf-8", errors="replace")
            failing |= dict.fromkeys(result.by or part, log)
    assert not any(name.partition(".")[0] == "tile_backend" for name in sys.modules)
    return failing


def run(
    mutants: Sequence[Mutant], folder: Path, jobs: int, said: Callable[[Mutant, Result], None]
) -> dict[str, Result]:
    """By name, in the order of the list. folder: in which `without` was. said: when one is done."""
    found: dict[str, Result] = {}
    waiting, running = list(mutants), list[Started]()
    while waiting or running:
        while waiting and len(running) < jobs:
            mutant = waiting.pop(0)
            place = folder / mutant.name
            if not mutant.is_of_spellings and (kept := folder / f"{WITHOUT}0" / PATTERNS).is_dir():
                shutil.copytree(kept, place / PATTERNS)
            process = trial.fork(mutant, mutant.tests, place)
            running.append(Started(mutant, place, process, time.monotonic()))
        for one in list(running):
            result = looked(one.process, one.folder, one.since, MOST_SECONDS)
            if result is not None:
                running.remove(one)
                found[one.mutant.name] = result
                said(one.mutant, result)
        time.sleep(AT_EACH_LOOK)
    return {mutant.name: found[mutant.name] for mutant in mutants}


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder for logs and caches."""
    with tempfile.TemporaryDirectory(prefix="mutants-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def looked(process: int, folder: Path, since: float, most: float) -> Result | None:
    """None while it runs. One that runs for too long is killed, with what it has started."""
    if os.waitpid(process, os.WNOHANG)[0]:
        return trial.left(folder)
    if time.monotonic() - since < most:
        return None
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return Result("timed out", text=f"after {most} seconds")
