"""A write to `x.data` after a fusion, in training: the backward of the original code sees it.

It moves no version, so nothing raises: eager differentiates with what was written.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch._dynamo
from torch import Tensor

import tile_backend
from tile_backend.inductor import without_codegen


def half_turned(x: Tensor) -> Tensor:
    one, other = x.chunk(2, -1)
    return torch.cat((-other, one), -1)


def rotation_by_a_copy(x: Tensor, r: Tensor) -> Tensor:
    """The sine is a copy of what the cosine is, and private."""
    sine = 1.0 * r
    y = x * r + half_turned(x) * sine
    sine.data.add_(1.0)
    return y


def product_of_a_copy(x: Tensor, r: Tensor) -> Tensor:
    """No fusion: the write itself must not be lost."""
    copy = r * 1.0
    y = x * copy
    copy.data.mul_(3.0)
    return y


def rotation_by_an_input(x: Tensor, r: Tensor) -> Tensor:
    sine = r.clone()
    y = x * r + half_turned(x) * sine
    sine.data[0] = 2.0
    return y


@pytest.mark.parametrize("kernels", ("auto", "always"))
@pytest.mark.parametrize(
    "program",
    (rotation_by_a_copy, product_of_a_copy, rotation_by_an_input),
    ids=lambda program: program.__name__,
)
def test_the_gradient_is_eagers(program: Callable[[Tensor, Tensor], Tensor], kernels: str) -> None:
    generator = torch.Generator().manual_seed(0)
    x, r = (torch.randn(6, 16, generator=generator) for _ in range(2))

    def gradient(function: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        leaf = x.clone().requires_grad_()
        return torch.autograd.grad(function(leaf, r.clone()).sum(), leaf)[0]

    torch._dynamo.reset()
    options = {"tilegym.kernels": kernels}
    with without_codegen():
        found = gradient(torch.compile(program, backend="tilegym", options=options))
    torch.testing.assert_close(found, gradient(program))
    report = tile_backend.last_report()
    assert report is not None
    kinds = [(site.fusion, site.reason and site.reason.kind) for site in report.sites]
    barrier = ("rotary", tile_backend.ReasonKind.MUTATION_BARRIER)
    assert kinds == ([] if program is product_of_a_copy else [barrier])
