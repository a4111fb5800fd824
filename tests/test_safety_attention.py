"""Attention written by hand in ways that invite a wrong rewrite: ours, or Inductor's after ours.

q, k and v are [batch, heads, length, width] unless a program says otherwise. Length equals heads on
purpose: a transposed operand does not fail then, it computes something else.

Longer than 300 lines because the programs are a list, each of three lines.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tests.models.check import assert_like_eager

Tensor = torch.Tensor
Program = Callable[[Tensor, Tensor, Tensor], Any]
BATCH, HEADS, LENGTH, WIDTH = 2, 8, 8, 8
SCALE = WIDTH**-0.5


def inputs(kv_heads: int = HEADS, length: int = LENGTH) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(BATCH, HEADS, LENGTH, WIDTH, generator=generator)
    k, v = (torch.randn(BATCH, kv_heads, length, WIDTH, generator=generator) for _ in range(2))
    return q, k, v


def causal() -> Tensor:
    return torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()


# --- attention, however the key is turned ---------------------------------------------------------


def key_permuted_once(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """[batch, length, heads, width] inputs; the spelling that torch 2.13 miscompiles."""
    scores = q.transpose(1, 2) @ k.permute(0, 2, 3, 1)
    return (scores * SCALE).softmax(-1) @ v.transpose(1, 2)


def key_permuted_in_heads_first_layout(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.softmax(q @ k.permute(0, 1, 3, 2) * SCALE, dim=-1) @ v


def key_by_mt(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.softmax(q @ k.mT * SCALE, dim=-1) @ v


def scores_divided(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.softmax(torch.matmul(q, k.transpose(-2, -1)) / 2.5, dim=-1) @ v


def query_and_key_scaled(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.softmax((q * 0.7) @ (k * 0.5).transpose(-2, -1), dim=-1) @ v


def mask_added_before_the_scale(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    bias = torch.linspace(-1, 1, LENGTH)
    return F.softmax((q @ k.mT + bias) * SCALE, dim=-1) @ v


def mask_of_one_row(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    bias = torch.linspace(-1, 1, LENGTH)
    return F.softmax(q @ k.mT * SCALE + bias, dim=-1) @ v


def mask_per_query(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    bias = torch.linspace(-1, 1, LENGTH)[:, None]
    return F.softmax(q @ k.mT * SCALE + bias, dim=-1) @ v


def filled_with_a_finite_number(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """A row that attends nowhere becomes the mean of the values, not zero and not nan."""
    nowhere = causal().logical_not()
    nowhere = nowhere | (torch.arange(LENGTH)[:, None] == 3)
    return F.softmax((q @ k.mT * SCALE).masked_fill(nowhere, -1e9), dim=-1) @ v


def filled_with_infinity(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """A row that attends nowhere is nan in eager; it may not become zero."""
    nowhere = causal().logical_not() | (torch.arange(LENGTH)[:, None] == 3)
    return F.softmax((q @ k.mT * SCALE).masked_fill(nowhere, float("-inf")), dim=-1) @ v


def added_with_an_empty_row(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """nan, as above; SDPA with the same float mask gives zero."""
    nowhere = causal().logical_not() | (torch.arange(LENGTH)[:, None] == 3)
    bias = torch.zeros(LENGTH, LENGTH).masked_fill(nowhere, float("-inf"))
    return F.softmax(q @ k.mT * SCALE + bias, dim=-1) @ v


def float_sdpa_with_an_empty_row(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    allowed = causal() & (torch.arange(LENGTH)[:, None] != 3)
    bias = torch.zeros(LENGTH, LENGTH).masked_fill(~allowed, float("-inf"))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)


def boolean_sdpa_with_an_empty_row(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    allowed = causal() & (torch.arange(LENGTH)[:, None] != 3)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=allowed)


def filled_with_a_small_number(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """-1 is a score like any other: masked keys still count."""
    return F.softmax((q @ k.mT * SCALE).masked_fill(causal().logical_not(), -1.0), dim=-1) @ v


def mask_is_where_not_to_attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.softmax(torch.where(causal(), -1e9, q @ k.mT * SCALE), dim=-1) @ v


def integer_mask(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    mask = causal().long()
    return F.softmax((q @ k.mT * SCALE).masked_fill(mask == 0, -1e9), dim=-1) @ v


def multiplied_mask(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.softmax((q @ k.mT * SCALE) * causal(), dim=-1) @ v


def softmax_in_float32(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.softmax(q @ k.mT * SCALE, dim=-1, dtype=torch.float32).to(q.dtype) @ v


def einsum(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    weights = torch.einsum("bhid,bhjd->bhij", q, k).mul(SCALE).softmax(-1)
    return torch.einsum("bhij,bhjd->bhid", weights, v)


def einsum_to_rows_of_heads(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The result has the queries in front of the heads; it is not there in the other order."""
    weights = torch.einsum("bhid,bhjd->bhij", q, k).mul(SCALE).softmax(-1)
    return torch.einsum("bhij,bhjd->bihd", weights, v)


def einsum_that_transposes_the_weights(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    weights = torch.einsum("bhid,bhjd->bhij", q, k).mul(SCALE).softmax(-1)
    return torch.einsum("bhji,bhjd->bhid", weights, v)


def einsum_over_the_heads(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Heads attend to heads: with length == heads the shapes are the same."""
    weights = torch.einsum("bhid,bjid->bhij", q, k).mul(SCALE).softmax(-1)
    return torch.einsum("bhij,bhjd->bhid", weights, v)


def weights_transposed(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.softmax(q @ k.mT * SCALE, dim=-1).mT @ v


def key_not_transposed(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention to keys that are stored as [batch, heads, width, length]."""
    return F.softmax(q @ k * SCALE, dim=-1) @ v


def softmax_over_queries(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.softmax(q @ k.mT * SCALE, dim=-2) @ v


def linear_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.softmax(q, dim=-1) @ (F.softmax(k, dim=-2).mT @ v)


def sigmoid_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.sigmoid(q @ k.mT * SCALE) @ v


def weights_are_returned(q: Tensor, k: Tensor, v: Tensor) -> Any:
    weights = F.softmax(q @ k.mT * SCALE, dim=-1)
    return weights @ v, weights


def scores_are_returned(q: Tensor, k: Tensor, v: Tensor) -> Any:
    scores = q @ k.mT * SCALE
    return F.softmax(scores, dim=-1) @ v, scores


def weights_are_reused(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    weights = F.softmax(q @ k.mT * SCALE, dim=-1)
    return weights @ v + weights @ k


def soft_capped(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = torch.tanh(q @ k.mT * SCALE / 2.0) * 2.0
    return F.softmax(scores + torch.zeros(LENGTH), dim=-1) @ v


def soft_capped_by_two_numbers(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """What the scores are divided by is not what they are multiplied by."""
    scores = torch.tanh(q @ k.mT * SCALE / 2.0) * 3.0
    return F.softmax(scores + torch.zeros(LENGTH), dim=-1) @ v


def with_a_sink(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = q @ k.mT * SCALE
    sink = torch.linspace(-1, 1, HEADS).reshape(1, -1, 1, 1).expand(BATCH, -1, LENGTH, -1)
    weights = F.softmax(torch.cat((scores, sink), dim=-1), dim=-1)
    return weights[..., :-1] @ v


def maximum_subtracted(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = q @ k.mT * SCALE
    return F.softmax(scores - scores.amax(dim=-1, keepdim=True), dim=-1) @ v


def dropout_off(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.dropout(F.softmax(q @ k.mT * SCALE, dim=-1), p=0.5, training=False) @ v


def everything_dropped(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Dropout of probability one gives zeros: a rewrite that forgets it gives something else."""
    return F.dropout(F.softmax(q @ k.mT * SCALE, dim=-1), p=1.0, training=True) @ v


def everything_dropped_by_sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, dropout_p=1.0)


def scale_of_zero(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, scale=0.0)


def negative_scale(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, scale=-0.5)


def scale_is_a_tensor(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.softmax(q @ k.mT * q.new_tensor(0.3), dim=-1) @ v


def three_dimensional(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (t.flatten(0, 1) for t in (q, k, v))
    return F.softmax(torch.bmm(q, k.transpose(1, 2)) * SCALE, dim=-1).bmm(v)


def causal_and_masked(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    first = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return first + F.scaled_dot_product_attention(q, k, v, attn_mask=causal().mT)


ATTENTION, SOFTMAX = {"attention": 1}, {"softmax": 1}
PROGRAMS: dict[Program, dict[str, int]] = {
    key_permuted_once: ATTENTION,
    key_permuted_in_heads_first_layout: ATTENTION,
    key_by_mt: ATTENTION,
    scores_divided: ATTENTION,
    query_and_key_scaled: ATTENTION,
    mask_added_before_the_scale: SOFTMAX,
    mask_of_one_row: ATTENTION,
    mask_per_query: ATTENTION,
    filled_with_a_finite_number: ATTENTION,
    filled_with_infinity: ATTENTION,
    added_with_an_empty_row: ATTENTION,
    float_sdpa_with_an_empty_row: ATTENTION,
    boolean_sdpa_with_an_empty_row: ATTENTION,
    filled_with_a_small_number: ATTENTION,
    mask_is_where_not_to_attend: ATTENTION,
    integer_mask: ATTENTION,
    multiplied_mask: SOFTMAX,
    softmax_in_float32: ATTENTION,
    einsum: ATTENTION,
    einsum_to_rows_of_heads: ATTENTION,
    einsum_that_transposes_the_weights: SOFTMAX,
    einsum_over_the_heads: SOFTMAX,
    weights_transposed: SOFTMAX,
    key_not_transposed: ATTENTION,
    softmax_over_queries: {},
    linear_attention: SOFTMAX,
    sigmoid_attention: {},
    weights_are_returned: SOFTMAX,
    scores_are_returned: SOFTMAX,
    weights_are_reused: SOFTMAX,
    soft_capped: ATTENTION,
    soft_capped_by_two_numbers: SOFTMAX,
    with_a_sink: ATTENTION,
    maximum_subtracted: SOFTMAX,
    dropout_off: ATTENTION,
    everything_dropped: {},
    everything_dropped_by_sdpa: {},
    scale_of_zero: ATTENTION,
    negative_scale: ATTENTION,
    scale_is_a_tensor: SOFTMAX,
    three_dimensional: ATTENTION,
    causal_and_masked: {"attention": 2},
}
"""What is rewritten in each; where it is not the attention, a part of it may be a fusion."""


@pytest.mark.parametrize("options", ({}, {"tilegym.kernels": "always"}), ids=("auto", "always"))
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
def test_like_eager(program: Program, options: dict[str, str]) -> None:
    assert_like_eager(program, *inputs(), options=options, found=PROGRAMS[program])


OTHER_FUNCTIONS = (
    multiplied_mask,
    einsum_that_transposes_the_weights,
    weights_transposed,
    softmax_over_queries,
    sigmoid_attention,
    soft_capped_by_two_numbers,
    everything_dropped,
    everything_dropped_by_sdpa,
)


@pytest.mark.parametrize("program", OTHER_FUNCTIONS, ids=lambda program: program.__name__)
def test_is_not_attention(program: Program) -> None:
    assert "attention" not in assert_like_eager(program, *inputs()).counts


@pytest.mark.parametrize("program", (everything_dropped, everything_dropped_by_sdpa))
def test_active_dropout_is_declined_with_a_reason(program: Program) -> None:
    report = assert_like_eager(program, *inputs())
    reasons = [s.reason.text for s in report.having("declined") if s.fusion == "attention"]
    assert len(reasons) == 1
    assert "dropout" in reasons[0]


FOUND = (
    key_permuted_once,
    key_permuted_in_heads_first_layout,
    key_by_mt,
    scores_divided,
    mask_of_one_row,
    mask_per_query,
    filled_with_a_finite_number,
    softmax_in_float32,
    einsum,
    einsum_to_rows_of_heads,
    key_not_transposed,
    dropout_off,
    negative_scale,
)


@pytest.mark.parametrize("program", FOUND, ids=lambda program: program.__name__)
def test_is_found(program: Program) -> None:
    assert assert_like_eager(program, *inputs()).counts == {"attention": 1}
