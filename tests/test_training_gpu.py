"""Mini models trained three ways on a GPU, where every site runs its kernel.

The same criterion as test_training_converges, which needs no GPU.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import pytest

from tests.models.run import REWRITTEN
from tests.training import ways
from tests.training.agreement import agreement
from tests.training.trajectory import Setup
from tile_backend.lowering.kernel_launch import KernelFallbackWarning

pytestmark = pytest.mark.gpu

MODELS = ("llama", "qwen3", "gemma3_text", "mixtral", "phi3", "gpt_oss")
OPTIONS = {**REWRITTEN, "tilegym.strict": "no-fallback"}


@pytest.fixture(autouse=True)
def kernels_only() -> Iterator[None]:
    """A reference in the place of a kernel is a failure."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", KernelFallbackWarning)
        yield


@pytest.mark.parametrize("dtype", ("float32", "bfloat16"))
@pytest.mark.parametrize("name", MODELS)
def test_three_ways(name: str, dtype: str) -> None:
    setup = Setup(name, dtype, device="cuda")
    eager = ways.eager(setup)
    for run in eager:
        assert run.losses[-1] < run.losses[0] - 0.5, "the model does not learn"
    found, report = ways.tilegym(setup, OPTIONS, codegen=True)
    assert {str(site.decision) for site in report.fused} == {"kernel"}
    verdict = agreement(eager, ways.inductor(setup), found)
    assert verdict, f"{name} {dtype}: {verdict}"
