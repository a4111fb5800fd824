"""How wrong a result may be: at most twice as wrong as the code it replaces, and one rounding step.

    err(y, y64) <= 2 * err(y_ref, y64) + step

for the maximum and for the root mean square, per output. y64 is the float64 oracle, y_ref the
original code in low precision; one step is the spacing of the output's dtype at max|y64|. No
tolerance is chosen by hand. Values that are not finite are no matter of errors: see _compare.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import torch

FACTOR = 2.0
WHERE = "where the exact ones are infinite or NaN"
LOST = "{count} values are NaN or infinite where the original's are not"

Results = torch.Tensor | None | Sequence[torch.Tensor | None]


@dataclasses.dataclass(frozen=True)
class Measured:
    """One output. Errors and their limits are absolute, in the output's own unit.

    problem: why the errors could not be compared (another shape, a NaN), or "".
    """

    max_error: float = 0.0
    max_allowed: float = 0.0
    rms_error: float = 0.0
    rms_allowed: float = 0.0
    problem: str = ""

    @property
    def ok(self) -> bool:
        within = self.max_error <= self.max_allowed and self.rms_error <= self.rms_allowed
        return within and not self.problem

    @property
    def used(self) -> float:
        """The larger error as a part of what is allowed; infinite where none could be taken."""
        pairs = ((self.max_error, self.max_allowed), (self.rms_error, self.rms_allowed))
        parts = [error / allowed for error, allowed in pairs if allowed]
        return math.inf if self.problem else max(parts, default=0.0)

    def __str__(self) -> str:
        return self.problem or (
            f"max error {self.max_error:.3g} (allowed {self.max_allowed:.3g}),"
            f" rms error {self.rms_error:.3g} (allowed {self.rms_allowed:.3g})"
        )


@dataclasses.dataclass(frozen=True)
class Verdict:
    """True if every output is within its budget; `str` gives the figures of each."""

    outputs: tuple[Measured, ...]

    @property
    def used(self) -> float:
        """The part of its budget that the worst output uses; over 1 is over budget."""
        return max((output.used for output in self.outputs), default=0.0)

    def __bool__(self) -> bool:
        return all(output.ok for output in self.outputs)

    def __str__(self) -> str:
        return "; ".join(
            f"output {index} {'ok' if output.ok else 'OVER BUDGET'}: {output}"
            for index, output in enumerate(self.outputs)
        )


def within_budget(y: Results, y64: Results, y_ref: Results) -> Verdict:
    """Compare `y` with the oracle `y64`, given what the original code `y_ref` does.

    Each is one tensor or a sequence of as many (outputs, or gradients, where None means none).
    Raises ValueError where their numbers differ.
    """
    triples = [
        [r] if isinstance(r, torch.Tensor) or r is None else list(r) for r in (y, y64, y_ref)
    ]
    if len({len(results) for results in triples}) != 1:
        counts = ", ".join(str(len(results)) for results in triples)
        raise ValueError(f"y, y64 and y_ref have different numbers of outputs: {counts}")
    return Verdict(tuple(_measure(*triple) for triple in zip(*triples, strict=True)))


def unlike(y: Results, y64: Results, y_ref: Results) -> list[str]:
    """For each output how it is not finite where the original is, or the other way round; or "".

    Nothing is said of errors, nor of values where only the original overflows.
    """
    triples = [
        [r] if isinstance(r, torch.Tensor) or r is None else list(r) for r in (y, y64, y_ref)
    ]
    return [_unlike(*triple) for triple in zip(*triples, strict=True)]


def rounding_step(dtype: torch.dtype, magnitude: float) -> float:
    """The distance between neighbouring numbers of a floating `dtype` at `magnitude`."""
    info = torch.finfo(dtype)
    _, exponent = math.frexp(max(magnitude, info.smallest_normal))
    return math.ldexp(info.eps, exponent - 1)


def _measure(
    y: torch.Tensor | None, y64: torch.Tensor | None, y_ref: torch.Tensor | None
) -> Measured:
    if y is None or y64 is None or y_ref is None:
        same = y is None and y64 is None and y_ref is None
        return Measured(problem="" if same else "only some of y, y64 and y_ref are None")
    if not y.shape == y64.shape == y_ref.shape:
        shapes = ", ".join(str(list(t.shape)) for t in (y, y64, y_ref))
        return Measured(problem=f"the shapes of y, y64 and y_ref differ: {shapes}")
    if y.dtype != y_ref.dtype:
        return Measured(problem=f"y is {y.dtype}, the original code gives {y_ref.dtype}")
    if y.is_complex():
        y, y64, y_ref = (torch.view_as_real(t.detach().resolve_conj()) for t in (y, y64, y_ref))
    if not y.is_floating_point():
        return Measured(problem="" if torch.equal(y, y_ref) else "values differ")
    return _compare(y.detach(), y64.detach().double(), y_ref.detach().double())


def _unlike(y: torch.Tensor | None, y64: torch.Tensor | None, y_ref: torch.Tensor | None) -> str:
    if y is None or y64 is None or y_ref is None or not y.is_floating_point():
        return ""
    y, y64, y_ref = (t.detach().double() for t in (y, y64, y_ref))
    if count := int(_differs(y, y64, y_ref).sum()):
        return f"{count} values differ from the original's {WHERE}"
    if count := int((~y.isfinite() & y_ref.isfinite() & y64.isfinite()).sum()):
        return LOST.format(count=count)
    return ""


def _compare(y: torch.Tensor, y64: torch.Tensor, y_ref: torch.Tensor) -> Measured:
    """Where the exact value is infinite or NaN, y is what the original is, or as exact.

    Where only the original overflows, y may be anything but NaN.
    """
    dtype, y = y.dtype, y.double()
    if count := int(_differs(y, y64, y_ref).sum()):
        return Measured(problem=f"{count} values differ from the original's {WHERE}")
    judged = y_ref.isfinite() & y64.isfinite()
    lost = torch.where(judged, ~y.isfinite(), y.isnan() & ~y_ref.isnan())
    if count := int(lost.sum()):
        return Measured(problem=LOST.format(count=count))
    if not judged.any():
        return Measured()
    ours, exact, theirs = y[judged], y64[judged], y_ref[judged]
    step = rounding_step(dtype, exact.abs().max().item())
    error, reference = ours - exact, theirs - exact
    return Measured(
        max_error=error.abs().max().item(),
        max_allowed=FACTOR * reference.abs().max().item() + step,
        rms_error=error.square().mean().sqrt().item(),
        rms_allowed=FACTOR * reference.square().mean().sqrt().item() + step,
    )


def _differs(y: torch.Tensor, y64: torch.Tensor, y_ref: torch.Tensor) -> torch.Tensor:
    """Where y has neither the original's NaN or infinity nor the exact one.

    They differ where the original overflows beside an infinity: the sum of both is then NaN.
    """
    as_exact = _same(y, y64) & ~y_ref.isfinite()
    return ~y64.isfinite() & ~_same(y, y_ref) & ~as_exact


def _same(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a == b) | (a.isnan() & b.isnan())
