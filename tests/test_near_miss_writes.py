"""What was found of a fusion and is written to is told with the write, not as another call."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

import tile_backend
from tile_backend.lowering.reason import ReasonKind

Tensor = torch.Tensor


def first_row_of_a_softmax(x: Tensor, y: Tensor) -> Tensor:
    weights = F.softmax(x, dim=-1)
    weights[0] = y[0]
    return weights


def negated_loss(x: Tensor, y: Tensor) -> Tensor:
    loss = F.cross_entropy(x, y)
    loss.neg_()
    return loss


def other_memory(x: Tensor, y: Tensor) -> Tensor:
    weights = F.softmax(x, dim=-1)
    y.clone().set_(x.clone())
    return weights


SAID = {
    first_row_of_a_softmax: "`setitem` (LINE) writes to the result of `softmax` (LINE)",
    negated_loss: "`neg_` (LINE) writes to the result of `cross_entropy` (LINE)",
    other_memory: "`set_` (LINE) gives a tensor other memory, maybe that of `softmax` (LINE)",
}


@pytest.mark.parametrize("program", SAID, ids=lambda program: program.__name__)
def test_the_write_is_the_reason(program: Callable[[Tensor, Tensor], Tensor]) -> None:
    report = tile_backend.explain(program, torch.randn(4, 8), torch.randn(4, 8))
    (site,) = report.sites
    assert site.status == "near-miss"
    assert site.reason is not None
    assert site.reason.kind is ReasonKind.MUTATION_BARRIER
    text = re.sub(r"\(test_near_miss_writes.py:\d+\)", "(LINE)", site.reason.text)
    assert text == SAID[program]
