"""A few operations are compiled as the program around them will be: with our passes."""

from __future__ import annotations

from typing import Any
from unittest import mock

import torch
from torch import fx

from tile_backend.inductor_alone import InductorAlone
from tile_backend.lowering import custom_op
from tile_backend.lowering.budget import within_budget
from tile_backend.lowering.joint_graph import JointGraphPass
from tile_backend.patterns import silu_mul


def code() -> fx.GraphModule:
    """exp(silu_mul(gate, up)), which trains."""
    custom_op.define([silu_mul.FUSION])
    graph = fx.Graph()
    gate, up = graph.placeholder("gate"), graph.placeholder("up")
    product = graph.call_function(torch.ops.tilegym.silu_mul.default, (gate, up))
    graph.output((graph.call_function(torch.exp, (product,)),))
    return fx.GraphModule(torch.nn.Module(), graph)


def test_cheap_ops_are_recomputed_as_in_the_program() -> None:
    marked: list[Any] = []
    apply = JointGraphPass.__call__

    def mark(self: JointGraphPass, graph: fx.Graph) -> None:
        apply(self, graph)
        target = torch.ops.tilegym.silu_mul.default
        marked.extend(
            node.meta.get("recompute")
            for node in graph.find_nodes(op="call_function", target=target)
        )

    inputs = [torch.randn(4, 8, requires_grad=True) for _ in range(2)]
    with mock.patch.object(JointGraphPass, "__call__", mark):
        compiled = InductorAlone(None, {"fx_graph_cache": False})(code(), inputs)
    assert [str(policy) for policy in marked] == ["CheckpointPolicy.PREFER_RECOMPUTE"]
    (result,) = compiled(*inputs)
    grads = torch.autograd.grad(result.sum(), inputs)
    assert within_budget([result, *grads], outcome(inputs, torch.float64), outcome(inputs))


def outcome(inputs: list[torch.Tensor], dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    """The result and the gradients, by eager PyTorch."""
    gate, up = (t.detach().to(dtype).requires_grad_() for t in inputs)
    result = torch.exp(torch.nn.functional.silu(gate) * up)
    return [result, *torch.autograd.grad(result.sum(), (gate, up))]
