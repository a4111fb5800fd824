"""Attention with grouped heads, unequal lengths, wide values and a learned bias."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tests.models.check import assert_like_eager
from tests.test_safety_attention import (
    BATCH,
    HEADS,
    LENGTH,
    SCALE,
    WIDTH,
    Program,
    Tensor,
    inputs,
)


def repeated(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    k, v = (t.repeat_interleave(HEADS // t.shape[1], dim=1) for t in (k, v))
    return F.scaled_dot_product_attention(q, k, v)


def expanded(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    def repeat(t: Tensor) -> Tensor:
        batch, heads, length, width = t.shape
        groups = HEADS // heads
        t = t[:, :, None].expand(batch, heads, groups, length, width)
        return t.reshape(batch, heads * groups, length, width)

    return F.softmax(q @ repeat(k).mT * SCALE, dim=-1) @ repeat(v)


def tiled(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The heads in the order 0 1 0 1 ...: not grouped attention."""
    k, v = (t.repeat(1, HEADS // t.shape[1], 1, 1) for t in (k, v))
    return F.scaled_dot_product_attention(q, k, v)


def expanded_in_front(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    def repeat(t: Tensor) -> Tensor:
        batch, heads, length, width = t.shape
        t = t[:, None].expand(batch, HEADS // heads, heads, length, width)
        return t.reshape(batch, HEADS, length, width)

    return F.scaled_dot_product_attention(q, repeat(k), repeat(v))


def only_the_key_repeated(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    k = k.repeat_interleave(HEADS // k.shape[1], dim=1)
    return F.scaled_dot_product_attention(q, k, q)


def native(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, enable_gqa=True)


@pytest.mark.parametrize("kv_heads", (1, 2, 4))
@pytest.mark.parametrize(
    "program", (repeated, expanded, tiled, expanded_in_front, only_the_key_repeated, native)
)
def test_grouped_heads_like_eager(program: Program, kv_heads: int) -> None:
    assert_like_eager(program, *inputs(kv_heads), found={"attention": 1})


@pytest.mark.parametrize("program", (repeated, expanded, native))
def test_keys_and_values_are_taken_before_their_expansion(program: Program) -> None:
    report = assert_like_eager(program, *inputs(kv_heads=2))
    (site,) = report.fused
    assert site.call is not None
    assert site.call.arguments["k"].example_shape[1] == 2


@pytest.mark.parametrize("length", (1, 5, 16))
@pytest.mark.parametrize("is_causal", (False, True))
def test_causal_is_aligned_top_left(length: int, is_causal: bool) -> None:
    def program(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, is_causal=is_causal)

    assert assert_like_eager(program, *inputs(length=length)).counts == {"attention": 1}


def test_values_may_be_wider_than_keys() -> None:
    q, k, _ = inputs()
    v = torch.randn(BATCH, HEADS, LENGTH, 3 * WIDTH)

    def program(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v)

    assert_like_eager(program, q, k, v, found={"attention": 1})


def test_a_learned_bias_gets_its_gradient() -> None:
    def program(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        return F.softmax(q @ k.mT * SCALE + bias, dim=-1) @ v

    bias = torch.randn(1, HEADS, LENGTH, LENGTH, requires_grad=True)
    given = (*(t.requires_grad_() for t in inputs()), bias)
    assert_like_eager(program, *given, found={"attention": 1})
