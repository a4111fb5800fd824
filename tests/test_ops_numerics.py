"""Every op forward and backward against the float64 oracle: dtypes, strides, odd sizes, None.

`y_ref` is the reference called directly, differentiated by PyTorch; the op adds its own layout,
dispatch and backward to it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from tests.op_samples import CASES, LOW_PRECISION, Case, arguments
from tile_backend.lowering import oracle
from tile_backend.lowering.budget import within_budget
from tile_backend.lowering.certify import joined

Results = list[torch.Tensor | None]
SETS = 16
"""Of values, judged as one where one does not settle it: the largest error of a hundred values,
ours or the reference's, is luck, and which of the two has it differs from processor to processor.
"""


def run_with_gradients(
    function: Callable[..., Any], values: dict[str, Any], cotangents: Sequence[torch.Tensor]
) -> Results:
    """Results of `function`, and then the gradient of every floating argument."""
    results = function(**values)
    results = [results] if isinstance(results, torch.Tensor) else list(results)
    seeds = [c.to(r.dtype) for c, r in zip(cotangents, results, strict=True)]
    leaves = [t for t in values.values() if isinstance(t, torch.Tensor) and t.requires_grad]
    # A result that was not asked for is empty, and depends on nothing.
    live = [pair for pair in zip(results, seeds, strict=True) if pair[0].requires_grad]
    outputs, towards = zip(*live, strict=True)
    gradients = torch.autograd.grad(outputs, leaves, towards, allow_unused=True)
    return [*(result.detach() for result in results), *gradients]


@pytest.mark.sampled(4)
@pytest.mark.parametrize("contiguous", (True, False), ids=["contiguous", "strided"])
@pytest.mark.parametrize("dtype", LOW_PRECISION, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_forward_and_backward_are_within_budget(
    case: Case, dtype: torch.dtype, contiguous: bool
) -> None:
    verdict = within_budget(*three_runs(case, dtype, contiguous))
    if not verdict and math.isfinite(verdict.used):
        sets = [three_runs(case, dtype, contiguous, seed) for seed in range(SETS)]
        verdict = within_budget(*map(joined, zip(*sets, strict=True)))
    assert verdict, str(verdict)


def three_runs(
    case: Case, dtype: torch.dtype, contiguous: bool, seed: int = 0
) -> tuple[Results, Results, Results]:
    """Results and gradients: the op's, the same in float64, and the reference's."""
    op, reference = case.record.overload, case.record.op.reference
    values = arguments(case, dtype, seed=seed, contiguous=contiguous, grad=True)
    exact_values = {
        name: value.detach().double().requires_grad_()
        if isinstance(value, torch.Tensor) and value.requires_grad
        else value
        for name, value in values.items()
    }
    generator = torch.Generator().manual_seed(seed + 1)
    promised = case.record.op.outputs(**values)
    promised = [promised] if isinstance(promised, torch.Tensor) else promised
    cotangents = [torch.randn(t.shape, generator=generator).to(t.dtype) for t in promised]
    runs = (op, values), (oracle.float64(reference), exact_values), (reference, values)
    ours, exact, theirs = (run_with_gradients(*run, cotangents) for run in runs)
    return ours, exact, theirs


@pytest.mark.parametrize("op", ("rms_norm", "layer_norm", "softmax", "silu_mul", "gelu_mul"))
def test_an_empty_tensor_gives_an_empty_result(op: str) -> None:
    case = next(case for case in CASES if case.op == op)
    values = arguments(case, torch.float32)
    empty = {
        name: value[:0] if isinstance(value, torch.Tensor) and value.dim() > 1 else value
        for name, value in values.items()
    }
    assert case.record.overload(*empty.values()).shape == (0, *values[next(iter(values))].shape[1:])
