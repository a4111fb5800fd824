"""Sites that read each other's results: each op stands behind what it reads."""

from __future__ import annotations

import pytest
import torch

from tests.models.check import assert_like_eager
from tests.norm_program import norm, x_and_more

Tensor = torch.Tensor


def test_an_op_that_reads_a_second_result_stands_behind_it() -> None:
    def program(x: Tensor, other: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
        total = x + other
        softmax = torch.softmax(total, dim=-1)
        between = other - other.mean(-1, keepdim=True)
        return softmax, norm(total, weight), total, between

    report = assert_like_eager(program, *x_and_more())
    assert report.counts == {"add_rms_norm": 1, "softmax": 1}
    assert not [facts for facts in report.graphs if facts.failures]


def test_an_op_in_front_of_what_takes_over_its_operand_reads_the_original() -> None:
    def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        half = x.shape[-1] // 2
        return x * cos + torch.cat((-x[..., half:], x[..., :half]), -1) * sin

    def both(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        first = rotated(q, cos, sin)
        seen = first.amax()
        return first, rotated(k, cos, sin), seen

    def program(x: Tensor, other: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
        total = x + other
        q, k, seen = both(other, total, x.cos(), x.sin())
        return q, k, seen, norm(total, weight), total

    report = assert_like_eager(program, *x_and_more())
    assert report.counts.get("add_rms_norm") == 1
    assert report.counts.get("rotary", 0) + report.counts.get("rotary_qk", 0) >= 1
    assert not [facts for facts in report.graphs if facts.failures]


@pytest.mark.parametrize("sizes", ((0, 2, 3, 3), (1, 0, 3, 3), (1, 2, 0, 3), (1, 2, 3, 0)))
def test_a_size_of_zero_costs_no_other_site(sizes: tuple[int, ...]) -> None:
    def program(q: Tensor, k: Tensor, v: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        weights = torch.softmax(q @ k.transpose(-1, -2) * 0.3, dim=-1)
        return weights @ v, norm(x, torch.ones(64))

    batch, heads, queries, keys = sizes
    q, k = torch.randn(batch, heads, queries, 8), torch.randn(batch, heads, keys, 8)
    report = assert_like_eager(program, q, k, k, x_and_more(4, 64)[0])
    assert report.counts["rms_norm"] == 1
    assert not [facts for facts in report.graphs if facts.failures]
