"""Certificates: each distinct site is run alone on random inputs, before it is rewritten.

The oracle is the site's original code in float64; the new code may err at most twice as much as the
original code does in its own dtypes, and one rounding step (see budget). Every result and every
gradient counts. Where the first inputs give more than that, further ones are drawn and all are
judged as one, so that it is not the luck of one largest error which decides. Then each input in
turn has NaN, infinity and huge numbers in some rows: the new code is to have NaN and infinity where
the original has them.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import torch

from tile_backend.lowering import oracle
from tile_backend.lowering.budget import unlike, within_budget
from tile_backend.lowering.certificate import Certificate
from tile_backend.lowering.real_tensors import CannotRun
from tile_backend.lowering.trial import Outcome, Trial, outcome
from tile_backend.lowering.trial import trial as again

OUT_OF_MEMORY = (MemoryError, torch.OutOfMemoryError)
DRAWS = 4
"""Sets of random inputs that a site is judged by, where one does not settle it."""
known: dict[Hashable, Certificate] = {}
"""Of the sites of this process, see trial."""


def judge(trial: Trial) -> Certificate:
    """Compare three runs: the original code, the same in float64, and the new code."""
    try:
        runs = compared(trial)
        verdict = within_budget(*runs)
        if not verdict and math.isfinite(verdict.used):
            others = [compared(again(trial.site, trial.given, seed)) for seed in range(1, DRAWS)]
            verdict = within_budget(*map(joined, zip(runs, *others, strict=True)))
        problem = of_unusual(trial) if verdict else ""
    except NewCodeRaised as raised:
        return Certificate("failed", f"the new code raises {raised}")
    if problem:
        return Certificate("failed", problem)
    used = verdict.used if math.isfinite(verdict.used) else None
    if verdict:
        ran = "forward and backward" if trial.site.trains else "forward"
        return Certificate("certified", f"{verdict.used:.0%} of its budget, {ran}", used)
    pairs = zip(trial.names, verdict.outputs, strict=True)
    over = "; ".join(f"{name}: {measured}" for name, measured in pairs if not measured.ok)
    return Certificate("failed", f"outside its error budget: {over}", used)


def of_unusual(trial: Trial) -> str:
    """What is wrong where some numbers are NaN, infinite or huge, in one input after the other."""
    for at, place in enumerate(trial.places):
        try:
            other = again(trial.site, trial.given, DRAWS + at, at)
        except (RuntimeError, ValueError) as error:
            if isinstance(error, OUT_OF_MEMORY):
                raise
            continue  # the original code takes no such numbers
        for name, problem in zip(trial.names, unlike(*compared(other)), strict=True):
            if problem:
                return f"with NaN, infinity and huge numbers in {place}: {name}: {problem}"
    return ""


class NewCodeRaised(Exception):
    """Where the original code runs, so must the new one."""


def compared(trial: Trial) -> tuple[Outcome, Outcome, Outcome]:
    """What the new code gives, the original in float64, and the original."""
    exact_inputs = oracle.widened(trial.inputs)
    exact = outcome(oracle.float64(trial.site.original), exact_inputs, trial.cotangents)
    try:
        new = trial.new()
    except OUT_OF_MEMORY:
        raise
    except Exception as error:
        raise NewCodeRaised(said(error)) from error
    ours, wide, theirs = filled(new, exact, trial.original)
    return ours, wide, theirs


def joined(outcomes: Sequence[Outcome]) -> Outcome:
    """Several as one: what is compared is then all of their values."""
    return [
        None if row[0] is None else torch.stack([part for part in row if part is not None])
        for row in zip(*outcomes, strict=True)
    ]


def without(error: Exception) -> Certificate:
    """Of a site that has no certificate, with the reason."""
    if isinstance(error, OUT_OF_MEMORY):
        return Certificate("not certified", f"too large: {first_line(error)}")
    text = str(error) if isinstance(error, CannotRun) else said(error)
    return Certificate("not certified", text)


def is_ours(error: Exception) -> bool:
    """Whether it is a mistake: nothing that a site may be too large or too unknown for."""
    return not isinstance(error, (CannotRun, *OUT_OF_MEMORY))


def filled(*runs: Outcome) -> tuple[Outcome, ...]:
    """A gradient that is missing is one of zeros, where another run has one."""
    rows = []
    for row in zip(*runs, strict=True):
        like = next((t for t in reversed(row) if t is not None), None)
        rows.append([torch.zeros_like(like) if t is None and like is not None else t for t in row])
    return tuple(map(list, zip(*rows, strict=True)))


def said(error: Exception) -> str:
    return f"{type(error).__name__}: {first_line(error)}"


def first_line(error: Exception) -> str:
    return (str(error).splitlines() or ["no message"])[0]
