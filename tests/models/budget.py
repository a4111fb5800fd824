"""The error budget: how far an output may be from the float64 oracle.

    err(y, y64) <= 2 * err(y_ref, y64) + one rounding step

for the maximum and for the root mean square, where y_ref is the original low-precision code and one
step is the spacing of y's dtype at max|y64|. There is no tolerance to tune.
"""

from __future__ import annotations

import dataclasses
import math

import torch


@dataclasses.dataclass(frozen=True)
class Errors:
    maximum: float
    root_mean_square: float

    @classmethod
    def of(cls, actual: torch.Tensor, exact: torch.Tensor) -> Errors:
        difference = (actual.double() - exact).abs()
        if difference.numel() == 0:
            return cls(0.0, 0.0)
        return cls(difference.max().item(), difference.square().mean().sqrt().item())


def step(dtype: torch.dtype, exact: torch.Tensor) -> float:
    """Distance between neighbouring numbers of `dtype` at the largest magnitude of `exact`."""
    largest = exact.abs().max().item() if exact.numel() else 0.0
    exponent = math.floor(math.log2(largest)) if largest > 0 else -126
    return float(torch.finfo(dtype).eps * 2.0**exponent)


def assert_within(
    actual: torch.Tensor, original: torch.Tensor, exact: torch.Tensor, what: str
) -> None:
    """Shape, dtype and non-finite places equal the original's; errors are within the budget."""
    assert actual.shape == original.shape, f"{what}: shape {actual.shape} for {original.shape}"
    assert actual.dtype == original.dtype, f"{what}: {actual.dtype} for {original.dtype}"
    finite = exact.isfinite()
    outside = torch.where(finite, 0.0, actual.double()), torch.where(finite, 0.0, original.double())
    assert torch.equal(*(t.nan_to_num(nan=1e300) for t in outside)), f"{what}: inf or nan differ"
    actual, original, exact = (torch.where(finite, t, 0.0) for t in (actual, original, exact))
    ours, theirs = Errors.of(actual, exact), Errors.of(original, exact)
    slack = step(original.dtype, exact)
    for kind in ("maximum", "root_mean_square"):
        error, allowed = getattr(ours, kind), 2 * getattr(theirs, kind) + slack
        assert error <= allowed, f"{what}: {kind} error {error:.3e} exceeds {allowed:.3e}"
