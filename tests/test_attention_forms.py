"""The kernel of `attention` and `attention_with_lse` in every form, interpreted, against float64."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import pytest
import torch

from tests.attention_cases import FORMS
from tests.kernel_cases import DTYPES
from tests.kernel_check import check_interpreted
from tests.op_samples import strided
from tile_backend.lowering.custom_op import record
from tile_backend.lowering.kernel_launch import KernelFallbackWarning

ADDED_UP = ("-10000.0", "-3.0")
"""Fills that count: their log-sum-exp has no kernel."""


@pytest.fixture(autouse=True)
def no_fallback() -> Iterator[None]:
    """A kernel that cannot run is a failure here."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", KernelFallbackWarning)
        yield


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_within_budget(form: str, dtype: torch.dtype) -> None:
    check_interpreted(record("attention"), FORMS[form](dtype))
