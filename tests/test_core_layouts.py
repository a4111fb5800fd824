"""Shapes, strides and numbers on the edge: empty tensors, views of results, symbolic sizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import tile_backend
from tests.models.check import assert_like_eager
from tests.norm_program import norm, x_and_more
from tile_backend.inductor import without_codegen

Tensor = torch.Tensor
ALWAYS = {"tilegym.kernels": "always"}


@pytest.mark.parametrize("shape", [(0, 32), (4, 0, 32), (1, 1), (1, 1, 1), (7, 1), (1,), (1, 32)])
def test_empty_and_single_elements(shape: tuple[int, ...]) -> None:
    def everything(x: Tensor, other: Tensor, weight: Tensor) -> Any:
        total = x + other
        return norm(total, weight), total, F.silu(x) * other, F.softmax(x, -1)

    found = {"add_rms_norm": 1, "silu_mul": 1, "softmax": 1}
    assert_like_eager(everything, *x_and_more(*shape), found=found)


def test_a_tensor_without_dimensions() -> None:
    x, other = torch.tensor(0.7), torch.tensor(-1.3)

    def program(x: Tensor, y: Tensor) -> Any:
        return F.silu(x) * y, F.gelu(x) * y, F.softmax(x, -1)

    assert_like_eager(program, x, other, found={})


@pytest.mark.parametrize("reduce", [torch.sum, torch.mean, torch.amax])
@pytest.mark.parametrize("dim", [0, 1, 2])
def test_a_norm_of_a_reduction_without_its_dimension(reduce: Any, dim: int) -> None:
    def of_reduced(x: Tensor, weight: Tensor) -> Tensor:
        return norm(reduce(x, dim=dim), weight)

    x, weight = torch.randn(2, 3, 4, 32), torch.randn(32)
    assert tile_backend.explain(of_reduced, x, weight).counts == {"rms_norm": 1}
    assert_like_eager(of_reduced, x, weight, found={"rms_norm": 1})


# --- layouts -------------------------------------------------------------------------------------


def expanded(x: Tensor) -> Tensor:
    return x[:1].expand_as(x)


def transposed(x: Tensor) -> Tensor:
    return x.transpose(0, 1).contiguous().transpose(0, 1)


def sliced(x: Tensor) -> Tensor:
    return torch.cat((x, x), 1)[:, ::2]


def last_dimension_strided(x: Tensor) -> Tensor:
    return torch.stack((x, x), -1)[..., 0]


LAYOUTS = [expanded, transposed, sliced, last_dimension_strided]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_strides_and_views_of_the_result_are_those_of_eager(
    layout: Callable[[Tensor], Tensor],
) -> None:
    def program(x: Tensor, other: Tensor, weight: Tensor) -> Any:
        total = x + other
        normed, gated = norm(total, weight), F.silu(x) * other
        probabilities = F.softmax(x, -1)
        strides = [torch.tensor(t.stride()) for t in (normed, gated, probabilities)]
        return normed, gated, probabilities, total, *strides

    x, other, weight = x_and_more()
    x, other = layout(x), layout(other)
    report = assert_like_eager(program, x, other, weight)
    assert report.counts == {"add_rms_norm": 1, "silu_mul": 1, "softmax": 1}
    eager = program(x, other, weight)
    torch._dynamo.reset()
    with without_codegen():
        compiled = torch.compile(program, backend="tilegym", options=ALWAYS)(x, other, weight)
    assert [t.stride() for t in compiled] == [t.stride() for t in eager]


def test_a_view_of_the_result_that_needs_its_layout() -> None:
    def program(x: Tensor, weight: Tensor) -> Tensor:
        turned = x.transpose(0, 1)
        return norm(turned, weight).transpose(0, 1).view(x.shape[0], -1)

    x, _, weight = x_and_more()
    assert assert_like_eager(program, x, weight).counts == {"rms_norm": 1}


def test_attention_keeps_the_layout_that_a_view_downstream_needs() -> None:
    def program(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = F.softmax(q @ k.transpose(-1, -2) * 0.25, -1) @ v
        return scores.view(scores.shape[0], -1)

    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 3, 5, 16, generator=generator) for _ in range(3))
    assert assert_like_eager(program, q, k, v).counts == {"attention": 1}


# --- sizes and numbers known only at run time ----------------------------------------------------


def test_marked_dynamic_sizes_serve_a_range() -> None:
    def program(x: Tensor, other: Tensor, weight: Tensor) -> Any:
        total = x + other
        return norm(total, weight), total

    torch._dynamo.reset()
    with without_codegen():
        compiled = torch.compile(program, backend="tilegym", options=ALWAYS)
        for rows in (4, 9, 17):
            x, other, weight = x_and_more(rows, 32)
            torch._dynamo.mark_dynamic(x, 0)
            torch._dynamo.mark_dynamic(other, 0)
            for ours, eager in zip(
                compiled(x, other, weight), program(x, other, weight), strict=True
            ):
                assert torch.allclose(ours, eager, rtol=1e-5)
    report = tile_backend.last_report()
    assert report is not None
    assert report.counts == {"add_rms_norm": 1}
    assert len(report.graphs) == 1, "it was compiled again within the range"


class Norm(torch.nn.Module):
    def __init__(self, eps: float) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.rand(32))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return norm(x, self.weight, self.eps)


def test_an_epsilon_that_is_a_graph_input_stays_one() -> None:
    """Under dynamic=True a float attribute is an input: another epsilon is no other compile."""
    x, _, _ = x_and_more()
    for eps in (1e-6, 0.5):
        torch.compiler.reset()
        model = Norm(eps)
        with without_codegen(), torch.no_grad():
            compiled = torch.compile(model, backend="tilegym", dynamic=True, options=ALWAYS)
            assert torch.allclose(compiled(x), model(x))
            model.eps = 2 * eps
            assert torch.allclose(compiled(x), model(x)), "the first epsilon was baked in"
        report = tile_backend.last_report()
        assert report is not None
        (site,) = report.sites
        assert (site.status, site.decision) == ("fused", "reference")
        assert site.fallback is not None
        assert "eps may change" in site.fallback.text
        assert site.bindings["eps"] == eps
