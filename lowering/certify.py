"""Certificates: each distinct site is run alone on random inputs, before it is rewritten.

The oracle is the site's original code in float64; the new code may err at most twice as much as the
original code does in its own dtypes, and one rounding step (see budget). Every result and every
gradient counts.
"""

from __future__ import annotations

import math
from collections.abc import Hashable

import torch

from tile_backend.lowering import oracle
from tile_backend.lowering.budget import within_budget
from tile_backend.lowering.certificate import Certificate
from tile_backend.lowering.real_tensors import CannotRun
from tile_backend.lowering.trial import Outcome, Trial, outcome

OUT_OF_MEMORY = (MemoryError, torch.OutOfMemoryError)
known: dict[Hashable, Certificate] = {}
"""Of the sites of this process, see trial."""


def judge(trial: Trial) -> Certificate:
    """Compare three runs: the original code, the same in float64, and the new code."""
    exact_inputs = oracle.widened(trial.inputs)
    exact = outcome(oracle.float64(trial.site.original), exact_inputs, trial.cotangents)
    try:
        new = trial.new()
    except OUT_OF_MEMORY:
        raise
    except Exception as error:  # noqa: BLE001 - where the original code runs, so must the new one
        return Certificate("failed", f"the new code raises {said(error)}")
    verdict = within_budget(*filled(new, exact, trial.original))
    used = verdict.used if math.isfinite(verdict.used) else None
    if verdict:
        ran = "forward and backward" if trial.site.trains else "forward"
        return Certificate("certified", f"{verdict.used:.0%} of its budget, {ran}", used)
    pairs = zip(trial.names, verdict.outputs, strict=True)
    over = "; ".join(f"{name}: {measured}" for name, measured in pairs if not measured.ok)
    return Certificate("failed", f"outside its error budget: {over}", used)


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
