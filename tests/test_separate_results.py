"""Equal calls of an op with several results share no memory, whatever torch merges."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch._dynamo
from torch import Tensor, fx
from torch._functorch.compile_utils import fx_graph_cse
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.checkpoint import checkpoint

import tile_backend
from tile_backend.errors import CompileFailed
from tile_backend.lowering import joint_graph
from tile_backend.lowering.custom_op import define
from tile_backend.patterns import all_fusions

define(all_fusions())
ops = torch.ops.tilegym
INPUTS = (torch.randn(4, 16), torch.randn(4, 16), torch.randn(16))


def norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float = 1e-6) -> Sequence[Tensor]:
    results: Sequence[Tensor] = ops.add_rms_norm(x, residual, weight, eps, 0.0, "before_weight")
    return results


def merged(function: Callable[..., Any]) -> fx.GraphModule:
    """The function as torch has it after it has merged what is equal."""
    module = make_fx(function, tracing_mode="fake")(*INPUTS)
    joint_graph.JointGraphPass()(module.graph)
    return fx.GraphModule(module, fx_graph_cse(module.graph))


def count(module: fx.GraphModule, target: Any) -> int:
    return sum(node.target is target for node in module.graph.nodes)


def both(x: Tensor, r: Tensor, w: Tensor) -> tuple[Tensor, ...]:
    return *norm(x, r, w), *norm(x, r, w)


def of_equal_operands(x: Tensor, r: Tensor, w: Tensor) -> tuple[Tensor, ...]:
    return norm(x * 2, r, w)[0], norm(x * 2, r, w)[0]


def thrice(x: Tensor, r: Tensor, w: Tensor) -> tuple[Tensor, ...]:
    return norm(x, r, w)[0].sum(), norm(x, r, w)[0], norm(x, r, w)[1], norm(x, r, w)[0]


def as_views(x: Tensor, r: Tensor, w: Tensor) -> tuple[Tensor, ...]:
    return norm(x, r, w)[0].view(64), norm(x, r, w)[0].t()


SHARED = {both: 2, of_equal_operands: 1, thrice: 1, as_views: 1}
"""By program, the copies that it takes."""


@pytest.mark.parametrize("function", SHARED, ids=lambda f: f.__name__)
def test_what_is_returned_twice_is_copied(function: Callable[..., Any]) -> None:
    module = merged(function)
    assert count(module, ops.add_rms_norm.default) == 1, "torch has merged them"
    assert count(module, torch.ops.aten.clone.default) == SHARED[function]
    places = [result.untyped_storage().data_ptr() for result in module(*INPUTS)]
    assert len(set(places)) == len(places)
    for found, wanted in zip(module(*INPUTS), function(*INPUTS), strict=True):
        assert torch.equal(found, wanted)


def once(x: Tensor, r: Tensor, w: Tensor) -> tuple[Tensor, ...]:
    return norm(x, r, w)[0], norm(x, r, w)[1]


def read_inside(x: Tensor, r: Tensor, w: Tensor) -> tuple[Tensor, ...]:
    return norm(x, r, w)[0], norm(x, r, w)[0] + 1


def of_other_numbers(x: Tensor, r: Tensor, w: Tensor) -> tuple[Tensor, ...]:
    return norm(x, r, w)[0], norm(x, r, w, 1e-5)[0]


def of_random_numbers(x: Tensor, r: Tensor, w: Tensor) -> tuple[Tensor, ...]:
    return norm(torch.rand_like(x), r, w)[0], norm(torch.rand_like(x), r, w)[0]


def test_calls_of_random_numbers_are_two() -> None:
    module = merged(of_random_numbers)
    assert count(module, ops.add_rms_norm.default) == 2
    one, other = module(*INPUTS)
    assert not torch.equal(one, other)


def in_checkpoints(x: Tensor, r: Tensor, w: Tensor) -> tuple[Tensor, ...]:
    def body(x: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
        total = x + r
        return w * (total * torch.rsqrt(total.pow(2).mean(-1, keepdim=True) + 1e-6)), total

    return *checkpoint(body, x, r, use_reentrant=False), *checkpoint(
        body, x, r, use_reentrant=False
    )


@pytest.mark.parametrize("kernels", ("always", "interpret"))
def test_equal_checkpoints_can_be_partitioned(kernels: str) -> None:
    """What a later checkpoint reads of an earlier one has to be saved, and a tuple cannot be."""
    leaves = [x.clone().requires_grad_() for x in INPUTS]
    torch._dynamo.reset()
    ours = torch.compile(in_checkpoints, backend="tilegym", options={"tilegym.kernels": kernels})

    def gradients(function: Callable[..., Any]) -> tuple[Tensor, ...]:
        results = function(*leaves)
        return torch.autograd.grad(sum(r.square().sum() for r in results), leaves)

    with warnings.catch_warnings():
        warnings.simplefilter("error", CompileFailed)
        found = gradients(ours)
    report = tile_backend.last_report()
    assert report is not None
    assert report.counts == {"add_rms_norm": 2}
    for one, other in zip(found, gradients(in_checkpoints), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    "function", (once, read_inside, of_other_numbers), ids=lambda f: f.__name__
)
def test_nothing_else_is_copied(function: Callable[..., Any]) -> None:
    module = merged(function)
    assert count(module, torch.ops.aten.clone.default) == 0
    places = [result.untyped_storage().data_ptr() for result in module(*INPUTS)]
    assert len(set(places)) == len(places)
