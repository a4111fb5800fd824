"""A result that depends on nothing with a gradient has none, as in eager."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch._dynamo
from torch import Tensor

import tile_backend
from tile_backend.inductor import without_codegen
from tile_backend.lowering.custom_op import define
from tile_backend.patterns import all_fusions

define(all_fusions())


def norm(x: Tensor, residual: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
    total = x + residual
    return weight * (total * torch.rsqrt(total.pow(2).mean(-1, keepdim=True) + 1e-6)), total


def half_turned(x: Tensor) -> Tensor:
    one, other = x.chunk(2, -1)
    return torch.cat((-other, one), -1)


def rotation(q: Tensor, k: Tensor, cos: Tensor) -> tuple[Tensor, ...]:
    return q * cos + half_turned(q) * cos, k * cos + half_turned(k) * cos


CASES: tuple[tuple[Callable[..., tuple[Tensor, ...]], tuple[tuple[int, ...], ...]], ...] = (
    (norm, ((4, 16), (4, 16), (16,))),
    (rotation, ((1, 2, 8, 16), (1, 2, 8, 16), (8, 16))),
)


@pytest.mark.parametrize("verify", ("off", "always"))
@pytest.mark.parametrize("kernels", ("always", "interpret"))
@pytest.mark.parametrize("needs", range(1, 8), ids=lambda bits: f"{bits:03b}")
@pytest.mark.parametrize(("program", "sizes"), CASES, ids=lambda v: getattr(v, "__name__", ""))
def test_which_results_have_a_gradient(
    program: Callable[..., tuple[Tensor, ...]],
    sizes: tuple[tuple[int, ...], ...],
    needs: int,
    kernels: str,
    verify: str,
) -> None:
    given = [
        torch.randn(size).requires_grad_(bool(needs >> bit & 1)) for bit, size in enumerate(sizes)
    ]
    torch._dynamo.reset()
    options = {"tilegym.kernels": kernels, "tilegym.verify": verify}
    with without_codegen():
        found = torch.compile(program, backend="tilegym", options=options)(*given)
    report = tile_backend.last_report()
    assert report is not None
    assert len(report.fused) == 1, report
    wanted = program(*given)
    assert [r.requires_grad for r in found] == [r.requires_grad for r in wanted]
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other)


def test_nothing_is_traced_for_it() -> None:
    """The question is asked in the middle of a trace."""
    from torch.fx.experimental.proxy_tensor import make_fx

    op = torch.ops.tilegym.add_rms_norm

    def program(x: Tensor, residual: Tensor, weight: Tensor) -> Tensor:
        y, _ = op(x, residual, weight, 1e-6, 0.0, "before_weight")
        return torch.autograd.grad(y.sum(), weight)[0]

    sizes = ((3, 24), (3, 24), (24,))  # that no other test has asked for
    given = [torch.randn(size) for size in sizes]
    given[2].requires_grad_()
    graph = make_fx(program, tracing_mode="fake")(*given).graph
    assert not [node for node in graph.nodes if "meta" in str(node.kwargs.get("device"))]
