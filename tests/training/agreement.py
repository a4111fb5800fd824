"""Do two runs of one training agree? The scale is what eager and inductor differ by.

    difference(ours, eager) <= 2 * difference(inductor, eager) + one rounding step

for the maximum and the root mean square of each quantity: the loss of every step, the parameters
after every step, the log-probabilities of held-out text after the last. On the right stands the
largest difference over all steps and seeds. One step is the spacing of the quantity's dtype at its
largest magnitude; for the root mean square, that of the spacings of its elements. Nothing is set by
hand.

A router that chooses another expert is a jump, not a difference: see `Choices`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence

import torch

from tests.training.trajectory import Trajectory
from tile_backend.lowering.budget import FACTOR, rounding_step

Runs = Sequence[Trajectory]
"""One for each seed."""


@dataclasses.dataclass(frozen=True)
class Difference:
    """Of one quantity at one step of training; all numbers are absolute.

    spacing: of the dtype, at the largest magnitude. rms_spacing: of those at all magnitudes.
    """

    quantity: str
    largest: float
    rms: float
    spacing: float
    rms_spacing: float


@dataclasses.dataclass(frozen=True)
class Finding:
    """One quantity over all steps and seeds: what ours differs by from eager, and what it may."""

    quantity: str
    found: float
    allowed: float

    @property
    def ok(self) -> bool:
        return self.found <= self.allowed < math.inf  # false for NaN

    def __str__(self) -> str:
        verdict = "ok" if self.ok else "DIFFERS"
        return f"{self.quantity} {verdict}: {self.found:.3g}, allowed {self.allowed:.3g}"


@dataclasses.dataclass(frozen=True)
class Choices:
    """Where two ways stop being comparable, because they sent some token to another expert.

    Rounding decides between two experts that are as good as equal, and what the token gets then
    differs by more than rounding. So two ways are compared up to the first choice that differs:
    that step's loss is out, and everything later. In one seed at least, ours must keep to eager's
    choices to the end, and so must inductor, or there is no scale.

    inductor, ours: for each seed the first step whose choices are not eager's; None for no such.
    """

    inductor: tuple[int | None, ...]
    ours: tuple[int | None, ...]

    @property
    def ok(self) -> bool:
        return None in self.inductor and None in self.ours

    def __str__(self) -> str:
        return (
            f"choices {'ok' if self.ok else 'DIFFER'}: inductor {self.inductor}, ours {self.ours}"
        )


@dataclasses.dataclass(frozen=True)
class Agreement:
    """True if all quantities agree; `str` gives the figures."""

    findings: tuple[Finding, ...]
    choices: Choices

    def __bool__(self) -> bool:
        return bool(self.findings) and self.choices.ok and all(f.ok for f in self.findings)

    def __str__(self) -> str:
        return "; ".join(map(str, (*self.findings, self.choices)))


def agreement(eager: Runs, inductor: Runs, ours: Runs) -> Agreement:
    """Compare the same seeds of three ways, in the same order."""
    choices = Choices(_departures(eager, inductor), _departures(eager, ours))
    scale = _worst(_all(inductor, eager, choices.inductor))
    found = _worst(_all(ours, eager, choices.ours))
    findings = []
    for quantity in scale.keys() & found.keys():
        own, theirs = found[quantity], scale[quantity]
        findings += [
            Finding(quantity, own.largest, FACTOR * theirs.largest + theirs.spacing),
            Finding(f"rms {quantity}", own.rms, FACTOR * theirs.rms + theirs.rms_spacing),
        ]
    return Agreement(tuple(findings), choices)


def _departures(eager: Runs, other: Runs) -> tuple[int | None, ...]:
    return tuple(_departure(*pair) for pair in zip(eager, other, strict=True))


def _departure(a: Trajectory, b: Trajectory) -> int | None:
    """The first step whose choices differ; the held-out text comes after the last step."""
    pairs = zip(a.choices, b.choices, strict=True)
    return next((step for step, pair in enumerate(pairs) if not torch.equal(*pair)), None)


def _all(runs: Runs, eager: Runs, ends: Sequence[int | None]) -> Iterator[Difference]:
    """Of every quantity at every step of every seed that is compared."""
    for run, reference, end in zip(runs, eager, ends, strict=True):
        pairs = [
            ("loss", *pair) for pair in zip(run.losses[:end], reference.losses[:end], strict=True)
        ]
        states = zip(run.parameters[:end], reference.parameters[:end], strict=True)
        pairs += [("parameters", _flat(state), _flat(exact)) for state, exact in states]
        if end is None:
            last = run.log_probabilities, reference.log_probabilities
            pairs.append(("log-probabilities", *last))
        for quantity, found, exact in pairs:
            yield _difference(quantity, found, exact)


def _flat(state: dict[str, torch.Tensor]) -> torch.Tensor:
    """All of them: Adam moves each element by about its rate, so none needs a scale of its own."""
    return torch.cat([parameter.flatten() for parameter in state.values()])


def _difference(quantity: str, found: torch.Tensor, exact: torch.Tensor) -> Difference:
    assert found.dtype == exact.dtype, f"the dtypes of {quantity} differ"
    apart = found.double() - exact.double()
    return Difference(
        quantity,
        largest=apart.abs().max().item(),
        rms=_rms(apart),
        spacing=rounding_step(exact.dtype, exact.abs().max().item()),
        rms_spacing=_rms(_spacings(exact)),
    )


def _rms(values: torch.Tensor) -> float:
    return values.square().mean().sqrt().item()


def _spacings(values: torch.Tensor) -> torch.Tensor:
    """budget.rounding_step at each element, float64."""
    info = torch.finfo(values.dtype)
    exponents = values.double().abs().clamp(min=info.smallest_normal).frexp().exponent
    return torch.full_like(values, info.eps, dtype=torch.float64).ldexp(exponents - 1)


def _worst(differences: Iterator[Difference]) -> dict[str, Difference]:
    """The largest of every measure, by quantity; NaN is larger than any number."""
    groups: dict[str, list[Difference]] = {}
    for each in differences:
        groups.setdefault(each.quantity, []).append(each)
    measures = ("largest", "rms", "spacing", "rms_spacing")
    return {
        quantity: Difference(
            quantity,
            *(_largest([getattr(each, measure) for each in group]) for measure in measures),
        )
        for quantity, group in groups.items()
    }


def _largest(values: Sequence[float]) -> float:
    return float(torch.tensor(values, dtype=torch.float64).max())  # of torch: NaN wins
