"""Whether a rewrite gives the bits that the compiler would have given (tilegym.numerics="bitwise").

The original and the new code of a site are compiled alone, by the same compiler on the same device,
and run on the same random inputs: results, and gradients where the site trains.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import fx

from tile_backend.lowering.certify import filled
from tile_backend.lowering.trial import Outcome, Trial, leaves, outcome

Compile = Callable[[fx.GraphModule, Sequence[Any]], Callable[..., Any]]
"""(code, example inputs) -> what runs; the compiler of the rest of the program."""


@dataclasses.dataclass(frozen=True)
class Bits:
    """How many of all values differ."""

    differing: int
    values: int


known: dict[str, dict[Hashable, Bits]] = {}
"""By the settings of the compiler: of the sites of this process, see trial."""


def compared(trial: Trial, compiles: Compile) -> Bits:
    """Raises what the compiler raises."""
    theirs, ours = (
        compiled(trial, code, compiles) for code in (trial.site.original, trial.site.new)
    )
    pairs = list(zip(*filled(ours, theirs), strict=True))
    present = [(a, b) for a, b in pairs if a is not None and b is not None]
    return Bits(sum(differing(a, b) for a, b in present), sum(b.numel() for _, b in present))


def compiled(trial: Trial, code: fx.GraphModule, compiles: Compile) -> Outcome:
    """The outcome of the compiled code."""
    return outcome(compiles(code, leaves(trial.inputs)), trial.inputs, trial.cotangents)


def differing(a: torch.Tensor, b: torch.Tensor) -> int:
    """How many values have other bits; NaN are alike."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return b.numel()
    if a.is_complex():
        a, b = (torch.view_as_real(t.resolve_conj()) for t in (a, b))
    same = (a == b) & (a.signbit() == b.signbit()) | (a.isnan() & b.isnan())
    return int((~same).sum())
