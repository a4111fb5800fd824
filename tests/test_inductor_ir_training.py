"""Our ops through AOTAutograd, the partitioner and Inductor: gradients, frozen weights, memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch._inductor.compile_fx import compile_fx
from torch.utils.checkpoint import CheckpointPolicy

from tests.inductor_code import first_call, launches
from tile_backend.lowering import joint_graph, oracle

ops = torch.ops.tilegym
ABSENT = (None,) * 5
"""mask, padding, segments, offset and sinks of attention."""


def block(
    x: torch.Tensor,
    residual: torch.Tensor,
    weight: torch.Tensor,
    up: torch.Tensor,
    kv: torch.Tensor,
) -> torch.Tensor:
    """x, residual and up [32, 64], weight [64], kv [1, 2, 8, 64]."""
    normed, total = ops.add_rms_norm(x, residual, weight, 1e-6, 0.0, "before_weight")
    gated = ops.silu_mul(normed * 2, up)
    q = gated.view(1, 4, 8, 64)
    q, k = ops.rotary_qk(q, kv, up[:8] / 4, up[8:16] / 4)
    attended = ops.attention(q, k, kv, *ABSENT, 0.125, True)
    return ops.rms_norm(attended.reshape(32, 64), None, 1e-6) + total


def inputs(dtype: torch.dtype) -> list[torch.Tensor]:
    torch.manual_seed(0)
    shapes = ((32, 64), (32, 64), (64,), (32, 64), (1, 2, 8, 64))
    return [torch.randn(shape).to(dtype).requires_grad_() for shape in shapes]


def gradients(function: Callable[..., Any], values: list[torch.Tensor]) -> list[Any]:
    leaves = [value for value in values if value.requires_grad]
    direction = torch.linspace(-1, 1, 32 * 64).view(32, 64).to(values[0].dtype)
    result = function(*values)
    return [result.detach(), *torch.autograd.grad(result, leaves, direction)]


def test_gradients_through_inductor_are_within_budget() -> None:
    torch._dynamo.reset()
    values = inputs(torch.bfloat16)
    wide = [value.detach().double().requires_grad_() for value in values]
    once = torch.compile(block)
    ours, codes = first_call(lambda: gradients(once, values))
    verdict = oracle.within_budget(
        ours, gradients(oracle.float64(block), wide), gradients(block, values)
    )
    assert verdict, str(verdict)
    forward, backward = codes
    assert len(launches(forward)) == 5
    assert sum("_tg.attention_with_lse(" in line for line in launches(forward)) == 1
    names = [line.split("_tg.")[1].split("(")[0] for line in launches(backward)]
    expected = ["attention_grad_kv", "attention_grad_q", "rms_norm_grad", "rms_norm_grad"]
    assert sorted(names) == [*expected, "silu_mul_grad"]
    assert "torch.ops.tilegym" not in backward  # the rotation, whose tables need one, is ATen


def joint_parts(
    function: Callable[..., Any], values: list[torch.Tensor], **patches: Any
) -> dict[str, torch.fx.GraphModule]:
    """The forward and backward graphs as Inductor would get them, without generating code."""
    torch._dynamo.reset()
    graphs: dict[str, torch.fx.GraphModule] = {}

    def inner(graph: torch.fx.GraphModule, example_inputs: Any, **kwargs: Any) -> Any:
        graphs["backward" if kwargs.get("is_backward") else "forward"] = graph
        return _boxed(graph.forward)

    def backend(graph: torch.fx.GraphModule, example_inputs: Any) -> Any:
        patches["fx_graph_cache"] = False
        return compile_fx(graph, example_inputs, inner_compile=inner, config_patches=patches)

    gradients(torch.compile(function, backend=backend), values)
    return graphs


def _boxed(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(args: list[Any]) -> Any:
        taken = list(args)
        args.clear()
        return function(*taken)

    call._boxed_call = True  # type: ignore[attr-defined]
    return call


def calls(graph: torch.fx.GraphModule) -> list[str]:
    """Names of our ops in a graph, in order."""
    targets = [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]
    return [target.split(".")[1] for target in targets if target.startswith("tilegym.")]


def saved_kilobytes(graph: torch.fx.GraphModule) -> float:
    """What the forward keeps for the backward, without its inputs."""
    (output,) = graph.graph.find_nodes(op="output")
    kept = {n for n in output.args[0][1:] if isinstance(n, torch.fx.Node)}
    values = [n.meta["val"] for n in kept if n.op != "placeholder"]
    return sum(v.numel() * v.element_size() for v in values if isinstance(v, torch.Tensor)) / 1024


def test_a_frozen_weight_gets_no_gradient_code() -> None:
    x, _, weight, *_ = inputs(torch.float32)

    def function(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return ops.rms_norm(x, weight, 1e-6)

    graphs = joint_parts(function, [x, weight.detach()])
    outputs = graphs["backward"].graph.find_nodes(op="output")[0].args[0]
    assert [output is None for output in outputs] == [False, True]
    sums = [n for n in graphs["backward"].graph.nodes if n.target is torch.ops.aten.sum.dim_IntList]
    assert all(n.args[1] != [0] for n in sums)  # no sum over rows, which the weight would need


def test_cheap_ops_are_recomputed_and_attention_is_saved() -> None:
    def chain(x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        hidden = x
        for _ in range(2):
            hidden = ops.rms_norm(hidden, weight, 1e-6) @ residual.view(64, 32) @ residual
        q = hidden.view(1, 4, 8, 64)
        return ops.attention(q, q, q, *ABSENT, 0.125).reshape(32, 64).sin()

    values = inputs(torch.float32)[:3]
    unmarked = joint_parts(chain, values)
    marked = joint_parts(chain, values, joint_custom_post_pass=joint_graph.JointGraphPass())
    assert "rms_norm" not in calls(unmarked["backward"])
    assert calls(marked["backward"]).count("rms_norm") == 2
    attention = [name for name in calls(marked["backward"]) if name != "rms_norm"]
    assert attention == ["attention_grad"], "a CPU has one call for all three gradients"
    assert saved_kilobytes(marked["forward"]) < saved_kilobytes(unmarked["forward"])


def test_the_pass_keeps_a_policy_that_is_already_there() -> None:
    graph = torch.fx.Graph()
    x = graph.placeholder("x")
    x.meta["val"] = torch.empty(3, 5)
    nodes = [graph.call_function(ops.softmax.default, (x,)) for _ in range(2)]
    nodes[0].meta["recompute"] = CheckpointPolicy.MUST_SAVE
    joint_graph.JointGraphPass()(graph)
    policies = [node.meta["recompute"] for node in nodes]
    assert policies == [CheckpointPolicy.MUST_SAVE, CheckpointPolicy.PREFER_RECOMPUTE]


@pytest.mark.parametrize("identity", ("", "options and sources"))
def test_the_pass_has_an_identity_for_the_cache(identity: str) -> None:
    first, second = (joint_graph.JointGraphPass(identity) for _ in range(2))
    assert first.uuid() == second.uuid()
    assert first.uuid() != joint_graph.JointGraphPass("other").uuid()
