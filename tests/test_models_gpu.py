"""Whole models on a GPU, every site by its kernel; test_interpret_option has the same on a CPU."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

import tile_backend
from tests import expectations
from tests.gpu_kit.model_runs import OPTIONS, RUNS, Run
from tile_backend.lowering import oracle
from tile_backend.lowering.budget import within_budget
from tile_backend.lowering.kernel_launch import KernelFallbackWarning

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def kernels_only() -> Iterator[None]:
    """A reference in the place of a kernel is a failure."""
    torch.compiler.reset()
    counters.clear()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("error", KernelFallbackWarning)
        yield


def compiled(run: Run, **options: Any) -> torch.nn.Module:
    """The run's model on the GPU, through our backend and Inductor's code."""
    model = run.model("cuda")
    settings = {**OPTIONS, **options}
    dynamic = True if run.dynamic else None
    return torch.compile(model, backend="tilegym", options=settings, dynamic=dynamic)


def check(run: Run, inputs: dict[str, Any], logits: torch.Tensor) -> None:
    """Within the budget that eager's errors give."""
    model = run.model("cuda")
    wide = oracle.widened(model)
    with oracle.Float64():
        exact = wide(**inputs).logits
    verdict = within_budget(logits, exact, model(**inputs).logits)
    assert verdict, f"{run.name}: logits: {verdict}"


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.name)
def test_models_run_their_kernels_within_budget(run: Run) -> None:
    inputs = run.inputs(run.model(), "cuda")
    check(run, inputs, compiled(run)(**inputs).logits)
    report = tile_backend.last_report()
    assert report is not None
    expected = expectations.load(run.architecture)["float32 prefill model static"]["sites"]
    assert report.counts == expected
    assert {str(site.decision) for site in report.fused} == {"kernel"}


def test_other_sizes_of_a_dynamic_graph() -> None:
    (run,) = (run for run in RUNS if run.dynamic)
    model = compiled(run)
    for length in (24, 17, 40):
        ids = torch.randint(3, 128, (2, length), device="cuda")
        inputs = {"input_ids": ids, "use_cache": False}
        check(run, inputs, model(**inputs).logits)
    assert counters["stats"]["unique_graphs"] == 1


def test_cuda_graphs_hold_the_launches() -> None:
    """mode="reduce-overhead": nothing is skipped, and a replay reads the new input."""
    run = RUNS[0]
    model = compiled(run, mode="reduce-overhead")
    for _ in range(4):
        ids = torch.randint(3, 128, (2, 24), device="cuda")
        inputs = {"input_ids": ids, "use_cache": False}
        torch.compiler.cudagraph_mark_step_begin()
        check(run, inputs, model(**inputs).logits.clone())
    assert counters["inductor"]["cudagraph_skips"] == 0


def test_cuda_graphs_of_a_dynamic_batch() -> None:
    """One compile, one graph for each batch that it meets; a batch seen before is a replay."""
    (run,) = (run for run in RUNS if run.dynamic)
    model = compiled(run, mode="reduce-overhead")
    for batch in (2, 3, 5, 3, 2):
        for _ in range(3):
            ids = torch.randint(3, 128, (batch, 24), device="cuda")
            inputs = {"input_ids": ids, "use_cache": False}
            torch.compiler.cudagraph_mark_step_begin()
            check(run, inputs, model(**inputs).logits.clone())
    assert counters["inductor"]["cudagraph_skips"] == 0
    assert counters["stats"]["unique_graphs"] == 1
