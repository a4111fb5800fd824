"""Where an identity holds, two programs have one term; where a condition of it fails, two terms.

`DIFFERENT` pairs compute other numbers, or numbers of other shapes, for some of the inputs here, so
that one term for both would be wrong. `EQUAL` pairs are there to show that a rule still applies.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tests.core_graph import capture
from tile_backend.lowering.canonical import CanonicalGraph

Tensor = torch.Tensor
Pair = tuple[Callable[[Tensor, Tensor], Any], Callable[[Tensor, Tensor], Any]]
SIZE = 8
WIDE, LOW, BYTES = torch.float32, torch.bfloat16, torch.uint8


def inputs(dtype: torch.dtype) -> dict[str, Tensor]:
    """Two square tensors: a wrong dimension does not fail, it computes something else."""
    generator = torch.Generator().manual_seed(0)
    drawn = (torch.rand(2, SIZE, SIZE, generator=generator) + 0.5) * 3
    x, y = drawn.double().mul(1 + 1e-9).to(dtype)
    return {"x": x, "y": y}


def terms(pair: Pair, dtype: torch.dtype) -> list[Any]:
    """The terms of what both return."""
    first, second = pair

    def both(x: Tensor, y: Tensor) -> tuple[Any, Any]:
        x, y = x.abs(), y.abs()  # values of the graph: an input itself is not returned
        return first(x, y), second(x, y)

    graph = capture(both, inputs(dtype)).module.graph
    (results,) = graph.output_node().args
    assert isinstance(results, (tuple, list))
    canonical = CanonicalGraph(graph)
    return [canonical.term[node] for node in results]  # type: ignore[index]


def halves(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[:, : SIZE // 2], x[:, SIZE // 2 :]


DIFFERENT: dict[str, tuple[torch.dtype, Pair]] = {
    # casts
    "narrowed_to_float32_and_back": (
        torch.float64,
        (lambda x, y: x.float().double(), lambda x, y: x),
    ),
    "through_another_low_precision": (
        torch.float16,
        (lambda x, y: x.bfloat16().half(), lambda x, y: x),
    ),
    "negated_bytes": (BYTES, (lambda x, y: (-x).float(), lambda x, y: -(x.float()))),
    "expanded_rows_times_a_column": (
        WIDE,
        (lambda x, y: x[:1].expand(SIZE, SIZE) * y[0], lambda x, y: x[:1] * y[0]),
    ),
    # arithmetic
    "product_of_two": (WIDE, (lambda x, y: x * y, lambda x, y: x.square())),
    "fourth_power": (WIDE, (lambda x, y: x**4, lambda x, y: x.square())),
    "square_of_a_rounded_root": (LOW, (lambda x, y: x.sqrt().square(), lambda x, y: x)),
    "rounded_power": (LOW, (lambda x, y: x * x * x * x, lambda x, y: x**4)),
    "rounded_logistic": (
        LOW,
        (lambda x, y: (1 + (-x).exp()).reciprocal(), lambda x, y: x.sigmoid()),
    ),
    "logistic_of_two": (WIDE, (lambda x, y: 1 / (2 + (-x).exp()), lambda x, y: x.sigmoid())),
    "rounded_quotient": (LOW, (lambda x, y: x / y, lambda x, y: x * y.reciprocal())),
    "rounded_inverse_root": (LOW, (lambda x, y: x.sqrt().reciprocal(), lambda x, y: x.rsqrt())),
    "number_subtracted": (WIDE, (lambda x, y: x - 2.0, lambda x, y: x + 2.0)),
    "number_added_and_subtracted_the_other_way": (WIDE, (lambda x, y: 2.0 - x, lambda x, y: x - 2)),
    "difference_the_other_way": (WIDE, (lambda x, y: x + (-y), lambda x, y: y - x)),
    "negative_subtracted": (WIDE, (lambda x, y: x - (-y), lambda x, y: x - y)),
    "product_of_a_negative": (WIDE, (lambda x, y: (-x) * y, lambda x, y: x * y)),
    "share_of_a_sum": (WIDE, (lambda x, y: x.sum(-1) * 0.5, lambda x, y: x.mean(-1))),
    "rounded_mean": (
        LOW,
        (lambda x, y: x[:, :3].sum(-1) * (1 / 3), lambda x, y: x[:, :3].mean(-1)),
    ),
    # moving data
    "permutations_in_the_other_order": (
        WIDE,
        (
            lambda x, y: x.view(2, 4, 8).permute(1, 0, 2).permute(0, 2, 1),
            lambda x, y: x.view(2, 4, 8).permute(0, 2, 1).permute(1, 0, 2).reshape(4, 8, 2),
        ),
    ),
    "every_second": (WIDE, (lambda x, y: x[:, ::2], lambda x, y: x)),
    "all_but_the_first": (WIDE, (lambda x, y: x[:, 1:], lambda x, y: x)),
    "a_part_of_a_cat": (WIDE, (lambda x, y: torch.cat((x, y), 1)[:, :3], lambda x, y: x)),
    "every_second_of_a_cat": (
        WIDE,
        (lambda x, y: torch.cat((x, y), 1)[:, 0:SIZE:2], lambda x, y: x),
    ),
    "overlapping_pieces": (
        WIDE,
        (lambda x, y: torch.cat((x[:, 2:6], x[:, 4:]), 1), lambda x, y: x),
    ),
    "exchanged_halves": (WIDE, (lambda x, y: torch.cat(halves(x)[::-1], 1), lambda x, y: x)),
    "first_halves": (
        WIDE,
        (lambda x, y: torch.cat((x[:, :3], x[:, 3:6]), 1), lambda x, y: x),
    ),
    "halves_below_each_other": (WIDE, (lambda x, y: torch.cat(halves(x), 0), lambda x, y: x)),
    "pairs_and_halves_of_a_stack": (
        WIDE,
        (
            lambda x, y: torch.stack((x, y), -1).flatten(-2),
            lambda x, y: torch.stack((x, y), -2).flatten(-2),
        ),
    ),
    "interleaved_with_another": (
        WIDE,
        (
            lambda x, y: torch.stack((x, y), -1).flatten(-2),
            lambda x, y: x.repeat_interleave(2, -1),
        ),
    ),
    "a_split_in_pairs_and_in_halves": (
        WIDE,
        (
            lambda x, y: x.view(SIZE, 4, 2)[..., 0],
            lambda x, y: x.view(SIZE, 2, 4)[..., 0, :],
        ),
    ),
    "tiled_and_repeated": (
        WIDE,
        (
            lambda x, y: x[None].expand(2, SIZE, SIZE).reshape(2 * SIZE, SIZE),
            lambda x, y: x.repeat_interleave(2, 0),
        ),
    ),
}

EQUAL: dict[str, tuple[torch.dtype, Pair]] = {
    "widened_and_narrowed": (LOW, (lambda x, y: x.float().bfloat16(), lambda x, y: x)),
    "one_rounding": (LOW, (lambda x, y: F.silu(x.float()).bfloat16(), lambda x, y: F.silu(x))),
    "one_rounding_of_two": (
        LOW,
        (lambda x, y: (x.float() * y.float()).bfloat16(), lambda x, y: x * y),
    ),
    "cube": (WIDE, (lambda x, y: x * x * x, lambda x, y: x**3)),
    "logistic": (WIDE, (lambda x, y: 1 / (1 + (-x).exp()), lambda x, y: x.sigmoid())),
    "inverse_root": (WIDE, (lambda x, y: 1 / x.sqrt(), lambda x, y: x.rsqrt())),
    "quotient": (WIDE, (lambda x, y: x / y, lambda x, y: x * y.reciprocal())),
    "mean": (WIDE, (lambda x, y: x.sum(-1) * (1 / SIZE), lambda x, y: x.mean(-1))),
    "mean_of_eight": (LOW, (lambda x, y: x.sum(-1) * (1 / SIZE), lambda x, y: x.mean(-1))),
    "permuted_twice": (
        WIDE,
        (
            lambda x, y: x.view(2, 4, 8).permute(1, 2, 0).permute(1, 0, 2),
            lambda x, y: x.view(2, 4, 8).permute(2, 1, 0),
        ),
    ),
    "permuted_repeat": (
        WIDE,
        (
            lambda x, y: x.repeat_interleave(2, 0).t(),
            lambda x, y: x.t().repeat_interleave(2, 1),
        ),
    ),
    "repeated_rows": (
        WIDE,
        (
            lambda x, y: x[:, None].expand(SIZE, 2, SIZE).reshape(2 * SIZE, SIZE),
            lambda x, y: x.repeat_interleave(2, 0),
        ),
    ),
    "joined_halves": (WIDE, (lambda x, y: torch.cat(halves(x), 1), lambda x, y: x)),
    "first_of_a_cat": (
        WIDE,
        (lambda x, y: torch.cat((x, y), 1)[:, :SIZE], lambda x, y: x),
    ),
    "first_of_each_pair": (
        WIDE,
        (lambda x, y: x.view(SIZE, 4, 2)[..., 0], lambda x, y: x[:, 0::2]),
    ),
    "first_half": (
        WIDE,
        (lambda x, y: x.view(SIZE, 2, 4)[..., 0, :], lambda x, y: x[:, :4]),
    ),
    "interleaved_with_itself": (
        WIDE,
        (
            lambda x, y: torch.stack((x, x), -1).flatten(-2),
            lambda x, y: x.repeat_interleave(2, -1),
        ),
    ),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_other_values_are_other_terms(name: str) -> None:
    dtype, pair = DIFFERENT[name]
    given = inputs(dtype)
    first, second = (function(**given) for function in pair)
    assert not torch.equal(first, second), "the pair shows nothing: these are the same numbers"
    one, other = terms(pair, dtype)
    assert one is not other


@pytest.mark.parametrize("name", EQUAL)
def test_equal_values_are_one_term(name: str) -> None:
    dtype, pair = EQUAL[name]
    one, other = terms(pair, dtype)
    assert one is other
