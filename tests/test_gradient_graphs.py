"""Gradients by kernels in the graphs of AOTAutograd: which ops, with what, and what is saved.

Where no kernel runs, the reference is differentiated, as ATen that Inductor fuses.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.inductor_code import body, code_of, first_call, launches
from tests.test_inductor_ir_training import calls, joint_parts, saved_kilobytes
from tile_backend.lowering import custom_op, joint_graph, oracle
from tile_backend.lowering.launch_place import force_direct_launch
from tile_backend.patterns._norm_gradient import DYNAMIC_PARTS

ops = torch.ops.tilegym
MARKED = {"joint_custom_post_pass": joint_graph.JointGraphPass()}
Graphs = dict[str, torch.fx.GraphModule]


def inputs(*needs: bool) -> list[torch.Tensor]:
    """x and residual [32, 64], weight [64]; which of them need a gradient."""
    torch.manual_seed(0)
    shapes = ((32, 64), (32, 64), (64,))
    return [torch.randn(s).requires_grad_(n) for s, n in zip(shapes, needs, strict=True)]


def on_a_gpu(function: Callable[..., Any], values: list[torch.Tensor], **patches: Any) -> Graphs:
    """Forward and backward graph as they are where kernels run."""
    with force_direct_launch():
        return joint_parts(function, values, **patches)


def arguments_in(graph: torch.fx.GraphModule, name: str) -> dict[str, Any]:
    """Of the one call of that op."""
    record = custom_op.record(name)
    (node,) = graph.graph.find_nodes(op="call_function", target=record.overload)
    return record.signature.bind(node.args, node.kwargs)


def sizes_of(graph: torch.fx.GraphModule, name: str) -> list[tuple[int, ...]]:
    """Of the results of that op."""
    (node,) = graph.graph.find_nodes(op="call_function", target=custom_op.record(name).overload)
    return [tuple(result.shape) for result in node.meta["val"]]


def layer(x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Both results of the norm are used, as in a model."""
    normed, total = ops.add_rms_norm(x.sin(), residual, weight, 1e-6)
    gate, up = (normed @ normed.T).chunk(2, -1)
    return torch.cat([ops.silu_mul(gate, up)] * 4, -1) + total


def test_kernels_run_backward_where_they_run_forward() -> None:
    values = inputs(True, True, True)
    there = on_a_gpu(layer, values)
    assert calls(there["forward"]) == ["add_rms_norm", "silu_mul"]
    assert calls(there["backward"]) == ["silu_mul_grad_packed", "rms_norm_grad"]
    here = joint_parts(layer, values)
    assert calls(here["forward"]) == ["add_rms_norm", "silu_mul"]
    assert calls(here["backward"]) == ["rms_norm_grad"], "it keeps the sum alone, on any device"


@pytest.mark.parametrize("frozen", ("weight", "x and residual", ""))
def test_what_is_frozen_has_no_result(frozen: str) -> None:
    graphs = on_a_gpu(layer, inputs(*(frozen != "x and residual",) * 2, frozen != "weight"))
    given = arguments_in(graphs["backward"], "rms_norm_grad")
    dx, sums = sizes_of(graphs["backward"], "rms_norm_grad")
    assert (given["weight_parts"], sums) == ((0, (0, 64)) if frozen == "weight" else (2, (2, 64)))
    assert (given["of_x"], dx) == ((False, (0,)) if " " in frozen else (True, (32, 64)))
    assert (given["added"] is None) is (" " in frozen)


def chain(x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Norms of a residual stream, each before a product, whose input a backward needs."""
    total = residual
    for _ in range(3):
        normed, total = ops.add_rms_norm(x, total, weight, 1e-6)
        gate, up = (normed @ residual.T).chunk(2, -1)
        x = ops.silu_mul(gate, up).repeat(1, 4) @ residual.T @ residual
    return x + total


def test_no_more_is_saved_than_where_the_reference_is_differentiated() -> None:
    values = inputs(True, True, True)
    here = joint_parts(chain, values, **MARKED)
    there = on_a_gpu(chain, values, **MARKED)
    assert saved_kilobytes(there["forward"]) <= saved_kilobytes(here["forward"])
    backward = calls(there["backward"])
    assert [backward.count(name) for name in ("rms_norm_grad", "silu_mul_grad_packed")] == [3, 3]
    again = backward.count("add_rms_norm")
    assert again == 2, "normed rows are computed again, not saved, but of inputs of the graph"


def test_a_dynamic_number_of_rows_makes_no_other_graph() -> None:
    """Gradients at several sizes, from one compile: no guard, and a constant number of parts."""
    torch._dynamo.reset()
    compiles: list[Any] = []
    nodes: list[dict[str, Any]] = []

    def backend(module: torch.fx.GraphModule, examples: Any) -> Any:
        from torch._dynamo.backends.common import aot_autograd

        def backward(graph: torch.fx.GraphModule, inputs: Any) -> Any:
            nodes.append(arguments_in(graph, "rms_norm_grad"))
            return graph.forward

        compiles.append(module)
        keep = aot_autograd(fw_compiler=lambda graph, _: graph.forward, bw_compiler=backward)
        return keep(module, examples)

    def function(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return ops.rms_norm(x.sin(), weight, 1e-6)

    reference = custom_op.record("rms_norm").op.reference
    weight = torch.randn(64, requires_grad=True)
    compiled = torch.compile(function, backend=backend, dynamic=True)
    with force_direct_launch():
        for rows in (7, 33, 2000):
            x = torch.randn(rows, 64, requires_grad=True)
            slope = torch.randn(rows, 64)
            ours = torch.autograd.grad(compiled(x, weight), (x, weight), slope)
            wide = [t.detach().double().requires_grad_() for t in (x, weight)]
            exact = oracle.float64(reference)(wide[0].sin(), wide[1], 1e-6)
            theirs = reference(x.sin(), weight, 1e-6)
            verdict = oracle.within_budget(
                ours,
                torch.autograd.grad(exact, wide, slope.double()),
                torch.autograd.grad(theirs, (x, weight), slope),
            )
            assert verdict, str(verdict)
    assert len(compiles) == 1
    assert [given["weight_parts"] for given in nodes] == [DYNAMIC_PARTS]


@pytest.mark.parametrize("up_first", (False, True))
def test_gradients_of_packed_halves_are_not_copied(up_first: bool) -> None:
    def function(x: torch.Tensor, project: torch.Tensor) -> torch.Tensor:
        gate, up = (x @ project).chunk(2, -1)[:: -1 if up_first else 1]
        return ops.silu_mul(gate, up)

    torch._dynamo.reset()
    torch.manual_seed(0)
    values = [torch.randn(shape, requires_grad=True) for shape in ((32, 64), (64, 48))]

    def step(call: Any, values: list[torch.Tensor]) -> list[torch.Tensor]:
        slope = torch.linspace(-1, 1, 32 * 24).view(32, 24).to(values[0].dtype)
        return list(torch.autograd.grad(call(*values), values, slope))

    once = torch.compile(function)
    ours, (_, backward) = first_call(lambda: step(once, values))
    assert [line for line in body(backward) if "cpp_fused" in line] == []
    (line,) = launches(backward)
    assert "_tg.silu_mul_grad_packed(" in line
    reference = custom_op.record("silu_mul").op.reference

    def plain(x: torch.Tensor, project: torch.Tensor) -> torch.Tensor:
        gate, up = (x @ project).chunk(2, -1)[:: -1 if up_first else 1]
        result: torch.Tensor = reference(gate, up)
        return result

    wide = [value.detach().double().requires_grad_() for value in values]
    verdict = oracle.within_budget(ours, step(oracle.float64(plain), wide), step(plain, values))
    assert verdict, str(verdict)


def test_a_result_that_nobody_needs_is_not_allocated() -> None:
    def function(dout: torch.Tensor, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        dx, _ = ops.rms_norm_grad(dout, x, weight, None, 1e-6, 0.0, 2)
        return dx + 1

    with torch.no_grad():
        code = code_of(function, *inputs(False, False, False))
    (line,) = [line for line in code.splitlines() if "_tg.rms_norm_grad(" in line]
    assert line.strip().endswith(", None)")
