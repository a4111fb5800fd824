"""A result of an op has the strides that the model has there, whatever order they are in."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import fx

from tests.core_graph import capture
from tests.models.check import assert_like_eager
from tests.norm_program import norm
from tile_backend.lowering import strides

Tensor = torch.Tensor
ORDERS = [order for order in itertools.permutations(range(3)) if order != (0, 1, 2)]


@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_a_norm_of_a_permuted_tensor(order: tuple[int, ...]) -> None:
    """Among them orders that are not their own inverse; no two sizes are equal."""

    def program(x: Tensor, weight: Tensor) -> Tensor:
        y = norm(x.permute(order), weight)
        return y.as_strided((y.numel(),), (1,))

    sizes = [0, 0, 0]
    for place, dim in enumerate(order):
        sizes[dim] = (2, 3, 32)[place]
    x = torch.randn(sizes, generator=torch.Generator().manual_seed(0))
    weight = torch.rand(32, generator=torch.Generator().manual_seed(1)) + 0.5
    assert_like_eager(program, x, weight, found={"rms_norm": 1})


def test_a_copy_lies_in_the_order_asked_for() -> None:
    x = torch.arange(24).reshape(2, 3, 4)
    for order in (*ORDERS, (0, 1, 2)):
        found = strides.copied(x.shape, order)(x)
        assert torch.equal(found, x)
        assert found.permute(order).is_contiguous(), order


# --- dimensions of one element --------------------------------------------------------------------


def gate(x: Tensor, y: Tensor) -> Tensor:
    return F.silu(x) * y


def normed(x: Tensor, y: Tensor) -> Tensor:
    return norm(x, y.amax((0, 1, 2)))


def attended(x: Tensor, y: Tensor) -> Tensor:
    return torch.softmax(x @ y.mT * 0.25, -1) @ y


def masked(x: Tensor, y: Tensor) -> Tensor:
    visible = torch.ones(x.shape[2], x.shape[2], dtype=torch.bool, device=x.device).tril()
    return F.scaled_dot_product_attention(x, y, y, attn_mask=visible)


PROGRAMS = (gate, normed, attended, masked)
SIZES = ((1, 3, 5, 16), (2, 1, 5, 16), (2, 3, 1, 16), (1, 1, 5, 16), (2, 1, 1, 16))
LAID = {
    "plain": lambda sizes: torch.empty(sizes),
    "heads": lambda sizes: torch.empty([sizes[d] for d in (0, 2, 1, 3)]).transpose(1, 2),
    "turned": lambda sizes: torch.empty([sizes[d] for d in (2, 1, 0, 3)]).transpose(0, 2),
    "part": lambda sizes: torch.empty(sizes[0], 2 * sizes[1], *sizes[2:])[:, : sizes[1]],
    "odd": lambda sizes: torch.empty_strided(
        sizes,
        [7 if n == 1 else 2 * s for n, s in zip(sizes, torch.empty(sizes).stride(), strict=True)],
    ),
}
"""How an input lies in memory."""


@pytest.mark.parametrize("lying", LAID)
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
def test_strides_of_dimensions_of_one_element(
    program: Callable[[Tensor, Tensor], Tensor], lying: str
) -> None:
    """The graph with an op in it promises what it promised before, and keeps it."""
    for sizes in SIZES:
        x, y = (LAID[lying](sizes).copy_(torch.randn(sizes)) for _ in range(2))
        captured = capture(program, {"x": x, "y": y})
        before = captured.module.graph.output_node().all_input_nodes[0].meta["example_value"]
        twin, sites = captured.rewritten()
        assert isinstance(twin, fx.GraphModule)
        assert [site.status for site in sites] == ["fused"], sizes
        after = twin.graph.output_node().all_input_nodes[0].meta["example_value"]
        (found,) = twin(*captured.inputs)
        assert after.stride() == before.stride() == found.stride(), sizes
