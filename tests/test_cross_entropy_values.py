"""Losses of logits whose sum overflows, by every op that computes them and by their kernels."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch._dynamo
import torch.nn.functional as F

import tile_backend
from tile_backend.inductor import without_codegen
from tile_backend.lowering import oracle
from tile_backend.lowering.budget import within_budget

Tensor = torch.Tensor
CLASSES = 200


def of_logits(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels, label_smoothing=0.1, reduction="none")


def of_hidden(logits: Tensor, labels: Tensor) -> Tensor:
    """The logits are made by the last layer, which leaves them as they are."""
    made = F.linear(logits, torch.eye(CLASSES, dtype=logits.dtype))
    return F.cross_entropy(made, labels, label_smoothing=0.1)


@pytest.mark.parametrize("kernels", ("always", "interpret"))
@pytest.mark.parametrize("trains", (False, True), ids=("forward", "training"))
@pytest.mark.parametrize("program", (of_logits, of_hidden), ids=lambda p: p.__name__)
def test_a_mean_of_large_logits_is_their_mean(
    program: Callable[..., Tensor], trains: bool, kernels: str
) -> None:
    logits = torch.randn(6, CLASSES, generator=torch.Generator().manual_seed(0))
    logits[0], logits[1], logits[2] = 3e38, -3e38, 1e37
    logits[3] += 1e6
    labels = torch.tensor([0, 3, 5, 7, 11, -100])

    def run(function: Callable[..., Tensor], given: Tensor) -> list[Tensor]:
        leaf = given.detach().requires_grad_(trains)
        result = function(leaf, labels)
        slopes = torch.autograd.grad(result.sum(), leaf) if trains else ()
        return [result.detach(), *slopes]

    torch._dynamo.reset()
    options = {"tilegym.kernels": kernels}
    with without_codegen():
        found = run(torch.compile(program, backend="tilegym", options=options), logits)
    report = tile_backend.last_report()
    assert report is not None
    assert len(report.fused) == 1, report
    with oracle.Float64():
        exact = run(program, logits.double())
    assert exact[0].isfinite().all()
    verdict = within_budget(found, exact, run(program, logits))
    assert verdict, str(verdict)
