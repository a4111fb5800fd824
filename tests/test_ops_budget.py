"""The budget: one rounding step, twice the original's error, maximum and root mean square."""

from __future__ import annotations

import math

import pytest
import torch

from tile_backend.lowering.budget import rounding_step, within_budget


@pytest.mark.parametrize(
    ("dtype", "magnitude", "step"),
    (
        (torch.float32, 1.0, 2.0**-23),
        (torch.float32, 1.99, 2.0**-23),
        (torch.bfloat16, 3.0, 2.0**-6),
        (torch.float16, 1024.0, 1.0),
        (torch.float16, 0.0, 2.0**-24),
    ),
)
def test_rounding_step_is_the_spacing_of_the_dtype(
    dtype: torch.dtype, magnitude: float, step: float
) -> None:
    assert rounding_step(dtype, magnitude) == step
    here = torch.tensor(magnitude, dtype=dtype)
    assert (here + step) - here == step


def test_an_exact_original_leaves_one_rounding_step() -> None:
    exact = torch.tensor([1.0, 1.5], dtype=torch.float64)
    original = exact.bfloat16()
    assert within_budget(original + 2**-7, exact, original)
    verdict = within_budget(original + 2**-6, exact, original)
    assert not verdict
    assert str(verdict) == (
        "output 0 OVER BUDGET: max error 0.0156 (allowed 0.00781),"
        " rms error 0.0156 (allowed 0.00781)"
    )


def test_twice_the_error_of_the_original_is_allowed() -> None:
    exact = torch.full((4,), 1.0, dtype=torch.float64)
    original = torch.full((4,), 1.25)
    assert within_budget(torch.full((4,), 1.5), exact, original)
    assert not within_budget(torch.full((4,), 1.51), exact, original)


def test_the_part_of_the_budget_that_is_used() -> None:
    exact = torch.full((4,), 1.0, dtype=torch.float64)
    original = torch.full((4,), 1.25)
    ours = torch.tensor([1.25, 1.0, 1.0, 1.0])
    assert within_budget(ours, exact, original).used == pytest.approx(0.5, rel=1e-6)
    assert within_budget(torch.full((4,), 2.0), exact, original).used > 1
    assert within_budget(torch.full((3,), 1.0), exact, original).used == math.inf
    assert within_budget(None, None, None).used == 0.0


def test_the_root_mean_square_sees_what_the_maximum_does_not() -> None:
    exact = torch.zeros(1000, dtype=torch.float64)
    original = torch.zeros(1000)
    original[0] = 1.0  # one outlier allows a maximum of 2
    spread = torch.full((1000,), 1.5)
    verdict = within_budget(spread, exact, original)
    assert verdict.outputs[0].max_error <= verdict.outputs[0].max_allowed
    assert not verdict


def test_each_output_has_its_own_budget() -> None:
    exact = [torch.zeros(2, dtype=torch.float64), None, torch.zeros(2, dtype=torch.float64)]
    original = [torch.ones(2), None, torch.zeros(2)]
    verdict = within_budget([torch.zeros(2), None, torch.ones(2)], exact, original)
    assert [output.ok for output in verdict.outputs] == [True, True, False]


def test_a_verdict_is_of_all_outputs() -> None:
    exact = [torch.zeros(2, dtype=torch.float64)] * 2
    assert within_budget([torch.zeros(2), torch.zeros(2)], exact, [torch.zeros(2)] * 2)
    assert not within_budget([torch.zeros(2), torch.ones(2)], exact, [torch.zeros(2)] * 2)


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("y", "y64", "y_ref", "ok"),
    (
        (NAN, 1.0, 1.0, False),
        (INF, 1.0, 1.0, False),
        (1.0, 1.0, INF, True),  # only the original overflows
        (NAN, NAN, NAN, True),
        (1.0, NAN, NAN, False),
        (-INF, INF, INF, False),
        (INF, INF, INF, True),
        (NAN, 1.0, INF, False),  # NaN is worse than an overflow
        (INF, 1.0, NAN, True),
        (NAN, NAN, 1.0, False),  # the original's value is what users know
        (1.0, NAN, 1.0, True),
        (INF, INF, NAN, True),  # the original adds an overflow to the infinity
        (-INF, INF, NAN, False),
        (INF, INF, 1.0, False),
    ),
)
def test_infinities_and_nans(y: float, y64: float, y_ref: float, ok: bool) -> None:
    results = (
        torch.tensor([y, 0.5]),
        torch.tensor([y64, 0.5]).double(),
        torch.tensor([y_ref, 0.5]),
    )
    assert bool(within_budget(*results)) is ok


@pytest.mark.parametrize(
    ("y", "words"),
    (
        (torch.zeros(3), r"shapes of y, y64 and y_ref differ: \[3\], \[2\], \[2\]"),
        (torch.zeros(2).half(), "y is torch.float16, the original code gives torch.float32"),
        (None, "only some of y, y64 and y_ref are None"),
    ),
)
def test_what_cannot_be_compared_is_over_budget(y: torch.Tensor | None, words: str) -> None:
    verdict = within_budget(y, torch.zeros(2).double(), torch.zeros(2))
    assert not verdict
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(str(verdict))


def test_integers_and_booleans_must_be_equal() -> None:
    flags = torch.tensor([True, False])
    assert within_budget(flags, flags, flags)
    assert not within_budget(~flags, flags, flags)


def test_complex_numbers_are_measured_by_their_parts() -> None:
    exact = torch.tensor([1 + 2j, 0.5j], dtype=torch.complex128)
    original = exact.to(torch.complex64)
    step = torch.tensor([2**-22 * 1j, 0])
    assert within_budget(original + step, exact, original)
    assert not within_budget(original + 2 * step, exact, original)
    assert not within_budget(original.conj(), exact, original)


def test_a_different_number_of_outputs_is_an_error() -> None:
    with pytest.raises(ValueError, match="different numbers of outputs: 1, 1, 2"):
        within_budget(torch.zeros(1), torch.zeros(1), [torch.zeros(1), torch.zeros(1)])
