"""The criterion of convergence, on trajectories made by hand."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from tests.training.agreement import Agreement, agreement
from tests.training.trajectory import Trajectory

STEPS = 4
SCALE = 1e-3
"""What inductor differs by from eager in these trajectories; one rounding step is far less."""


def run(off: float = 0.0, at: int = 0, other_expert_at: int | None = None) -> Trajectory:
    """All quantities are 1, from step `at` on `off` more; a token leaves its expert at a step."""
    values = [torch.tensor(1.0 + (off if step >= at else 0.0)) for step in range(STEPS + 1)]
    choices = [torch.zeros(3, 2, dtype=torch.int64) for _ in values]
    if other_expert_at is not None:
        for step in range(other_expert_at, STEPS + 1):
            choices[step][1, 0] = 1
    return Trajectory(
        tuple(values[:STEPS]),
        tuple({"weight": value.expand(5)} for value in values[:STEPS]),
        values[STEPS].expand(2, 3),
        tuple(choices),
    )


def judged(*ours: Trajectory, inductor: tuple[Trajectory, ...] = ()) -> Agreement:
    eager = tuple(run() for _ in ours)
    return agreement(eager, inductor or tuple(run(SCALE) for _ in ours), ours)


@pytest.mark.parametrize(("off", "agrees"), ((0.0, True), (1.9, True), (-1.9, True), (2.1, False)))
def test_twice_the_scale_is_allowed(off: float, agrees: bool) -> None:
    assert bool(judged(run(), run(off * SCALE))) is agrees


@pytest.mark.parametrize("bad", (math.nan, math.inf))
@pytest.mark.parametrize("at", range(STEPS + 1))
def test_nothing_agrees_with_nan_or_infinity(bad: float, at: int) -> None:
    assert not judged(run(), run(bad, at=at))
    assert not judged(run(), run(), inductor=(run(SCALE), run(bad, at=at)))


def test_without_a_scale_one_rounding_step_is_allowed() -> None:
    still = (run(), run())
    step = torch.finfo(torch.float32).eps
    assert judged(run(), run(step), inductor=still)
    assert not judged(run(), run(2 * step), inductor=still)


@pytest.mark.parametrize("quantity", ("losses", "parameters", "log_probabilities"))
def test_every_quantity_counts(quantity: str) -> None:
    wrong = dataclasses.replace(run(), **{quantity: getattr(run(3 * SCALE), quantity)})
    verdict = judged(run(), wrong)
    assert not verdict
    assert {f.quantity.split()[-1] for f in verdict.findings if not f.ok} == {
        {"losses": "loss", "log_probabilities": "log-probabilities"}.get(quantity, quantity)
    }


def test_what_follows_another_choice_of_expert_is_not_compared() -> None:
    far = run(1.0, at=2, other_expert_at=2)
    assert judged(run(), far)
    assert not judged(run(), run(1.0, at=1, other_expert_at=2)), "different before the choice"
    assert not judged(far, far), "no seed keeps to eager's choices"


def test_what_inductor_does_after_another_choice_is_no_scale() -> None:
    far = run(1.0, at=2, other_expert_at=2)
    assert not judged(run(), run(0.5), inductor=(run(SCALE), far))
    assert not judged(run(), run(), inductor=(far, far)), "there is no scale"
