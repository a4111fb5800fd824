"""Gradients of losses: by the declared backward, and what eager gives for any upstream gradient.

An infinite one comes of a sum divided by a number of labels that is 0.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable

import pytest
import torch
import torch._dynamo
import torch.nn.functional as F

import tile_backend
from tile_backend.inductor import without_codegen
from tile_backend.lowering.kernel_launch import KernelFallbackWarning

Tensor = torch.Tensor
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
CLASSES = 7
SOME, ALL = [1, 2, -100, 3, 4, 5, 6, 0, -100], [-100] * 9
"""Labels, of which some are ignored, or all."""


def of_logits(x: Tensor, weight: Tensor, labels: Tensor, **given: object) -> Tensor:
    return F.cross_entropy(x[:, :CLASSES] * weight[0, :CLASSES], labels, **given)  # type: ignore[arg-type]


def of_hidden(x: Tensor, weight: Tensor, labels: Tensor, **given: object) -> Tensor:
    return F.cross_entropy(F.linear(x, weight), labels, **given)  # type: ignore[arg-type]


def cases() -> list[Loss]:
    found: list[Loss] = []
    for smoothing in (0.0, 0.125):
        given = {"label_smoothing": smoothing}
        found += [functools.partial(of_logits, reduction=r, **given) for r in ("mean", "none")]
        found += [functools.partial(of_hidden, reduction=r, **given) for r in ("mean", "sum")]
    return found


def name(loss: Loss) -> str:
    assert isinstance(loss, functools.partial)
    return " ".join([loss.func.__name__, *map(str, loss.keywords.values())])


def gradients(loss: Loss, labels: Tensor, upstream: float) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(n, 8, generator=generator) for n in (len(labels), CLASSES))
    leaves = [t.requires_grad_() for t in (x, weight)]
    result = loss(*leaves, labels)
    slope = torch.ones_like(result)
    slope.view(-1)[0] = upstream
    return torch.autograd.grad(result, leaves, slope)


@pytest.mark.sampled(6)
@pytest.mark.parametrize("kernels", ("always", "interpret"))
@pytest.mark.parametrize("upstream", (2.0, 0.0, math.inf, -math.inf, math.nan))
@pytest.mark.parametrize("labels", (SOME, ALL), ids=("some ignored", "all ignored"))
@pytest.mark.parametrize("loss", cases(), ids=name)
def test_gradients_are_eagers(loss: Loss, labels: list[int], upstream: float, kernels: str) -> None:
    """No launch of the backward falls back on the way, which would be right as well."""
    given = torch.tensor(labels)
    torch._dynamo.reset()
    ours = torch.compile(loss, backend="tilegym", options={"tilegym.kernels": kernels})
    with without_codegen(), warnings.catch_warnings():
        warnings.simplefilter("error", KernelFallbackWarning)
        found = gradients(ours, given, upstream)
    report = tile_backend.last_report()
    assert report is not None
    fusion = "cross_entropy" if name(loss).startswith("of_logits") else "linear_cross_entropy"
    assert report.counts == {fusion: 1}
    for one, other in zip(found, gradients(loss, given, upstream), strict=True):
        torch.testing.assert_close(one, other, equal_nan=True)
