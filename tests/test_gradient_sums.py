"""The sums over rows in the gradients of norms: parts that add up, in an order that is fixed."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.kernel_check import check_interpreted, outputs_of
from tile_backend.lowering import interpreted, launch_recipe, oracle
from tile_backend.lowering.custom_op import define, record
from tile_backend.lowering.interpreter.launch import interpret
from tile_backend.patterns import all_fusions
from tile_backend.patterns._norm_gradient import parts_of

define(all_fusions())
Arguments = dict[str, Any]


def norm_arguments(x: torch.Tensor, parts: int, **given: Any) -> Arguments:
    """Of rms_norm_grad, for the sums of the weight's gradient in so many parts."""
    generator = torch.Generator().manual_seed(3)
    made = {
        "dout": torch.randn(x.shape, generator=generator).to(x.dtype),
        "x": x,
        "weight": 1 + 0.2 * torch.randn(x.shape[-1], generator=generator).to(x.dtype),
        "added": None,
        "eps": 1e-6,
        "weight_parts": parts,
        **given,
    }
    return record("rms_norm_grad").signature.bind((), made)


def rows(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(7)).to(dtype)


@pytest.mark.parametrize("parts", (2, 5, 64))
def test_parts_of_the_sums_add_up(parts: int) -> None:
    """Fewer parts than tiles of rows, and more: those that have no rows are zero."""
    one, several = (norm_arguments(rows(23, 203), n) for n in (1, parts))
    outputs = outputs_of(record("rms_norm_grad"), several)
    interpreted.run(record("rms_norm_grad"), several, outputs)
    dx, sums = outputs
    whole = record("rms_norm_grad").op.reference(**one)
    exact = oracle.float64(record("rms_norm_grad").op.reference)(**one)
    verdict = oracle.within_budget([dx, sums.sum(0, keepdim=True)], exact, whole)
    assert verdict, str(verdict)
    tiles = -(-23 // 4)  # four rows of 203 features, padded to 256, are a tile
    assert sums[: min(parts, tiles)].any(1).all()
    assert not sums[tiles:].any()


def test_sums_have_the_same_bits_whatever_runs_together() -> None:
    values = norm_arguments(rows(23, 203, dtype=torch.bfloat16), 3)
    results = []
    for order in ({}, {"blocks_at_once": 1}, {"blocks_at_once": 2, "reverse": True}):
        outputs = outputs_of(record("rms_norm_grad"), values)
        given = (*values.values(), *outputs)
        recipe = launch_recipe.recipe(
            "rms_norm_grad", tuple(values), launch_recipe.describe(given), "sm_90"
        )
        assert recipe is not None
        interpret(recipe.grid, recipe.kernel, recipe.arguments(given), **order)
        results.append(outputs)
    for others in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], others, strict=True))


@pytest.mark.parametrize("op", ("rms_norm_grad", "layer_norm_grad"))
@pytest.mark.parametrize("order", ((2, 1, 0, 3), (0, 2, 1, 3)), ids=str)
def test_blocks_walk_over_three_leading_dimensions(op: str, order: tuple[int, ...]) -> None:
    x = rows(5, 3, 2, 64)[::2].permute(order)  # strides that cannot be merged
    given = {n: v for n, v in norm_arguments(x, 1).items() if n not in ("added", "offset")}
    if op == "layer_norm_grad":
        given["bias_parts"] = 1
    else:
        given["added"] = None
    check_interpreted(record(op), record(op).signature.bind((), given))


def test_no_rows_give_sums_of_zero() -> None:
    values = norm_arguments(torch.empty(0, 64), 3)
    outputs = outputs_of(record("rms_norm_grad"), values)
    interpreted.run(record("rms_norm_grad"), values, outputs)
    assert torch.equal(outputs[1], torch.zeros(3, 64))


@pytest.mark.parametrize(
    ("shape", "parts"),
    (
        ((8192, 4096), 384),
        ((4, 2048, 4096), 384),
        ((16, 4096), 16),
        ((1, 1), 1),
        ((0, 4096), 1),
        ((4096,), 1),
        ((8192, 32, 128), 1024),
        ((40, 128), 5),
        ((8192, 32768), 128),
    ),
)
def test_the_number_of_parts_is_a_function_of_the_shape(shape: tuple[int, ...], parts: int) -> None:
    assert parts_of(torch.empty(shape, device="meta")) == parts
