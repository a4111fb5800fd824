"""A result of an op has the strides that the model has there, whatever order they are in."""

from __future__ import annotations

import itertools

import pytest
import torch

from tests.models.check import assert_like_eager
from tests.norm_program import norm

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
