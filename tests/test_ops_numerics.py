"""Every op forward and backward against the float64 oracle: dtypes, strides, odd sizes, None.

`y_ref` is the reference called directly, differentiated by PyTorch; the op adds its own layout,
dispatch and backward to it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from tests.op_samples import CASES, LOW_PRECISION, Case, arguments
from tile_backend.lowering import oracle

Results = list[torch.Tensor | None]


def run_with_gradients(
    function: Callable[..., Any], values: dict[str, Any], cotangents: Sequence[torch.Tensor]
) -> tuple[Results, Results]:
    """Results of `function`, and the gradient of every floating argument."""
    results = function(**values)
    results = [results] if isinstance(results, torch.Tensor) else list(results)
    seeds = [c.to(r.dtype) for c, r in zip(cotangents, results, strict=True)]
    leaves = [t for t in values.values() if isinstance(t, torch.Tensor) and t.requires_grad]
    # A result that was not asked for is empty, and depends on nothing.
    live = [pair for pair in zip(results, seeds, strict=True) if pair[0].requires_grad]
    outputs, towards = zip(*live, strict=True)
    gradients = torch.autograd.grad(outputs, leaves, towards, allow_unused=True)
    return [result.detach() for result in results], list(gradients)


@pytest.mark.parametrize("contiguous", (True, False), ids=["contiguous", "strided"])
@pytest.mark.parametrize("dtype", LOW_PRECISION, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_forward_and_backward_are_within_budget(
    case: Case, dtype: torch.dtype, contiguous: bool
) -> None:
    op, reference = case.record.overload, case.record.op.reference
    values = arguments(case, dtype, contiguous=contiguous, grad=True)
    exact_values = {
        name: value.detach().double().requires_grad_()
        if isinstance(value, torch.Tensor) and value.requires_grad
        else value
        for name, value in values.items()
    }
    generator = torch.Generator().manual_seed(1)
    promised = case.record.op.outputs(**values)
    promised = [promised] if isinstance(promised, torch.Tensor) else promised
    cotangents = [torch.randn(t.shape, generator=generator).to(t.dtype) for t in promised]

    ours, our_gradients = run_with_gradients(op, values, cotangents)
    theirs, their_gradients = run_with_gradients(reference, values, cotangents)
    exact, exact_gradients = run_with_gradients(oracle.float64(reference), exact_values, cotangents)

    forward = oracle.within_budget(ours, exact, theirs)
    assert forward, str(forward)
    backward = oracle.within_budget(our_gradients, exact_gradients, their_gradients)
    assert backward, str(backward)


@pytest.mark.parametrize("op", ("rms_norm", "layer_norm", "softmax", "silu_mul", "gelu_mul"))
def test_an_empty_tensor_gives_an_empty_result(op: str) -> None:
    case = next(case for case in CASES if case.op == op)
    values = arguments(case, torch.float32)
    empty = {
        name: value[:0] if isinstance(value, torch.Tensor) and value.dim() > 1 else value
        for name, value in values.items()
    }
    assert case.record.overload(*empty.values()).shape == (0, *values[next(iter(values))].shape[1:])
