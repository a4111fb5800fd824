"""Tries a stretch of the row of programs in this process, and reduces what fails."""

from __future__ import annotations

import dataclasses
import logging
import warnings
from collections.abc import Iterable, Mapping

import torch

from tests.fuzz import finding, row
from tests.fuzz.outcome import Verdict
from tests.fuzz.program import Program
from tests.fuzz.reduce import reduced
from tests.fuzz.tally import Failure, Tally
from tests.fuzz.ways import Capture, Tried, Way, tried

REDUCED = 2
"""Failures of one kind in a chunk that are made smaller."""
ATTEMPTS: Mapping[Capture, int] = {"graph": 3000, "dynamo": 300, "aot": 100, "inductor": 20}
"""At most so many programs are tried in search of a smaller one."""


def tally(seed: int, numbers: Iterable[int]) -> Tally:
    found = Tally()
    torch.set_num_threads(1)
    logging.getLogger("tile_backend").setLevel(logging.ERROR)
    for number in numbers:
        program, way = row.drawn(seed, number)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = tried(program, way)
            found.add(result, way)
            if not result.verdict.right:
                known = sum(f.kind == result.verdict.kind for f in found.failures)
                shortened = known < REDUCED
                found.failures.append(failure(seed, number, result, way, shortened))
        program.forget()
    return found


def failure(seed: int, number: int, result: Tried, way: Way, shortened: bool) -> Failure:
    """shortened: with the smallest program that fails alike, else with the program itself."""
    title = f"{way}, program {number} of seed {seed}"
    if not shortened:
        script = finding.script(result.program, result.verdict, title, way.kernels)
        return Failure(number, str(way), result.verdict.kind, result.verdict.text, script)
    kind = alike(result.verdict)

    def fails(program: Program, by: Way) -> bool:
        return alike(tried(program, by).verdict) == kind

    cheap = dataclasses.replace(way, capture="graph")
    way = cheap if fails(result.program, cheap) else way
    attempts = ATTEMPTS[way.capture]
    small = reduced(result.program, lambda program: fails(program, way), attempts)
    again = tried(small, way).verdict
    script = finding.script(small, again, title, way.kernels)
    return Failure(number, str(way), again.kind, again.text, script)


def alike(verdict: Verdict) -> str:
    """Failures with the same words have the same cause, as far as one can tell."""
    text = verdict.text.split(":")
    return f"{verdict.kind} {text[1] if verdict.kind == 'raises' and len(text) > 1 else ''}"


def again(seed: int, number: int) -> tuple[Program, Way, Tried]:
    """One program of a row, to look at."""
    program, way = row.drawn(seed, number)
    return program, way, tried(program, way)
