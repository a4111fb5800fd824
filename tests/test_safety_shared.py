"""Sites that read each other's results: each op stands behind what it reads."""

from __future__ import annotations

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
