"""The sizes at which a call with dynamic sizes is tried before it runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import fx

from tile_backend.lowering import dynamic_sizes
from tile_backend.lowering.dynamic_sizes import trials
from tile_backend.lowering.tensor_layout import Layout, Trial


def captured(function: Callable[..., Any], *args: torch.Tensor) -> dict[str, torch.Tensor]:
    """The fake tensors of a graph by the name of their node."""
    found: dict[str, torch.Tensor] = {}

    def backend(module: fx.GraphModule, _: Sequence[Any]) -> Any:
        for node in module.graph.nodes:
            value = node.meta.get("example_value")
            if isinstance(value, torch.Tensor):
                found[node.name] = value
        return module.forward

    torch._dynamo.reset()
    torch.compile(function, backend=backend, fullgraph=True)(*args)
    return found


def trials_of(tensor: torch.Tensor) -> list[Trial]:
    (environment, *_) = (d.node.shape_env for d in tensor.shape if isinstance(d, torch.SymInt))
    return trials([Layout.of(tensor)], environment)


def sizes_of(tensor: torch.Tensor) -> list[list[int]]:
    return [list(trial.values()) for trial in trials_of(tensor)]


def test_static_sizes_are_tried_as_they_are() -> None:
    layout = Layout.of(torch.empty(4, 6)[:, 2:])
    assert layout == ((4, 4), (6, 1), 2, torch.float32)
    assert trials([layout], None) == [{}]
    made = layout.on_meta({})
    assert (made.shape, made.stride(), made.storage_offset()) == ((4, 4), (6, 1), 2)
    assert made.is_meta


def test_dynamic_sizes_are_tried_at_other_divisibility_the_least_and_a_large_one() -> None:
    x = torch.randn(24, 8)
    torch._dynamo.mark_dynamic(x, 0)
    x = captured(lambda x: x * 2, x)["l_x_"]
    assert sizes_of(x) == [[24], [32], [33], [2], [4096]]
    trial = trials_of(x)[-1]
    assert dynamic_sizes.described(trial) == f"{x.shape[0]} = 4096"
    assert Layout.of(x).on_meta(trial).shape == (4096, 8)


def test_the_bounds_of_the_graph_are_kept() -> None:
    x = torch.randn(24, 8)
    torch._dynamo.mark_dynamic(x, 0, min=20, max=70000)
    x = captured(lambda x: x * 2, x)["l_x_"]
    assert sizes_of(x) == [[24], [32], [33], [20], [70000]]


def test_a_size_that_a_guard_excludes_is_not_tried() -> None:
    def pairs(x: torch.Tensor) -> torch.Tensor:
        return (x.view(-1, 2, 8) * 2)[3:]

    x = torch.randn(24, 8)
    torch._dynamo.maybe_mark_dynamic(x, 0)
    found = captured(pairs, x)
    assert sizes_of(found["l_x_"]) == [[24], [32], [6], [4096]], "33 is odd, 4 leaves nothing"
    (result,) = (value for name, value in found.items() if name.startswith("getitem"))
    for trial in trials_of(result):
        ((size,),) = (trial.values(),)
        made = Layout.of(result).on_meta(trial)
        assert (made.shape, made.storage_offset()) == ((size // 2 - 3, 2, 8), 48)


def test_sizes_of_several_symbols_move_together() -> None:
    x, y = torch.randn(5, 8), torch.randn(30, 8)
    for tensor in (x, y):
        torch._dynamo.mark_dynamic(tensor, 0)
    product = captured(lambda x, y: x @ y.t(), x, y)["matmul"]
    shapes = [Layout.of(product).on_meta(trial).shape for trial in trials_of(product)]
    assert shapes == [(5, 30), (16, 32), (8, 40), (17, 33), (2, 2), (4096, 4096)]


@pytest.mark.parametrize("name", ("backed_var_to_val", "var_to_val"))
def test_both_names_of_the_captured_sizes(name: str) -> None:
    values = {"s": 3}
    environment = type("ShapeEnv", (), {name: values})()
    assert dynamic_sizes._captured(environment) is values


def test_sizes_that_depend_on_data_are_not_known() -> None:
    torch._dynamo.config.capture_dynamic_output_shape_ops = True
    try:
        found = captured(lambda x: x.nonzero() * 2, torch.tensor([0, 1, 1]))
    finally:
        torch._dynamo.config.capture_dynamic_output_shape_ops = False
    (pairs,) = (value for name, value in found.items() if name == "mul")
    (trial,) = trials_of(pairs)
    assert Layout.of(pairs).on_meta(trial).shape == (2, 1)
