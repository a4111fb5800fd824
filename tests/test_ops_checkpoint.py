"""Our ops in the body of a checkpoint that runs without a compiler: what torch counts is the same.

A checkpoint counts what its body saves, runs it again, and ends that by an exception as soon as it
has all. So nothing else may be saved on the way, and the exception is no failure of ours.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from tile_backend import registry
from tile_backend.lowering import custom_op, independent_results
from tile_backend.lowering.kernel_launch import KernelFallbackWarning

Tensor = torch.Tensor
custom_op.define(registry.known_fusions())
OPS = torch.ops.tilegym


def attended(x: Tensor, w: Tensor) -> Tensor:
    q = (x * w).view(1, 2, 4, 8)
    return OPS.attention(q, q, q, None, None, None, None, None, 0.5, True)  # type: ignore[no-any-return]


def normed(x: Tensor, w: Tensor) -> Tensor:
    y, total = OPS.add_rms_norm(x, x.detach(), w[0], 1e-6)
    return y * total  # type: ignore[no-any-return]


def loss(x: Tensor, w: Tensor) -> Tensor:
    return OPS.cross_entropy(x * w, torch.arange(8))  # type: ignore[no-any-return]


def gated(x: Tensor, w: Tensor) -> Tensor:
    return OPS.silu_mul(x, x * w)  # type: ignore[no-any-return]


@pytest.mark.parametrize("body", (attended, normed, loss, gated), ids=lambda body: body.__name__)
@pytest.mark.parametrize("last", (True, False), ids=("nothing after", "something after"))
def test_a_checkpoint_gives_the_same_gradients(
    body: Callable[[Tensor, Tensor], Tensor], last: bool
) -> None:
    independent_results._of.cache_clear()
    generator = torch.Generator().manual_seed(0)
    leaves = [torch.randn(8, 8, generator=generator).requires_grad_() for _ in range(2)]

    def function(x: Tensor, w: Tensor) -> Tensor:
        return body(x, w) if last else body(x, w).sin()

    def gradients(call: Callable[..., Tensor]) -> tuple[Tensor, ...]:
        return torch.autograd.grad(call().sum(), leaves)

    with warnings.catch_warnings():
        warnings.simplefilter("error", KernelFallbackWarning)
        found = gradients(lambda: checkpoint(function, *leaves, use_reentrant=False))
        again = gradients(lambda: checkpoint(function, *leaves, use_reentrant=False))
    for one, two, other in zip(found, again, gradients(lambda: function(*leaves)), strict=True):
        assert torch.equal(one, other)
        assert torch.equal(two, other)
