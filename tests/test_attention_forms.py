"""The kernel of `attention` and `attention_with_lse` in every form, interpreted, and float64."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import pytest
import torch

from tests.attention_cases import FORMS
from tests.kernel_cases import DTYPES
from tests.kernel_check import check_interpreted
from tile_backend.lowering.custom_op import record
from tile_backend.lowering.kernel_launch import KernelFallbackWarning

COUNT = ("-10000.0", "-3.0")
"""Fills of hidden scores that count: their log-sum-exp has no kernel."""


@pytest.fixture(autouse=True)
def no_fallback() -> Iterator[None]:
    """A kernel that cannot run is a failure here."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", KernelFallbackWarning)
        yield


@pytest.mark.sampled(10)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_within_budget(form: str, dtype: torch.dtype) -> None:
    given = FORMS[form](dtype)
    counts = form.endswith(COUNT) and not form.startswith("no rule")
    if counts:
        check_interpreted(record("attention"), given)
        with pytest.raises(KernelFallbackWarning, match="the log-sum-exp of scores whose hidden"):
            check_interpreted(record("attention_with_lse"), given)
    else:
        check_interpreted(record("attention_with_lse"), given)
