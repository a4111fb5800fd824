"""Views that are made after a write: looked through where nothing is written later, and only there.

A cache is written to and read through views of it; test_safety_mutation has writes on their own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tests.models.check import assert_like_eager
from tests.norm_program import norm, x_and_more

Tensor = torch.Tensor


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    return x_and_more(4, 64)


# --- what was computed before the write is of another value ---------------------------------------


def whole_slice(x: Tensor, other: Tensor, weight: Tensor) -> Tensor:
    mean = x.pow(2).mean(-1, keepdim=True)
    x.add_(other)
    return x[:, :] * torch.rsqrt(mean + 1e-6) * weight


def reshape(x: Tensor, other: Tensor, weight: Tensor) -> Tensor:
    square = x.pow(2)
    x.add_(other)
    return x.view(4, 64) * torch.rsqrt(square.mean(-1, keepdim=True) + 1e-6) * weight


def rotated(x: Tensor, other: Tensor, weight: Tensor) -> Tensor:
    half = torch.cat((-x[:, 32:], x[:, :32]), -1)
    x.mul_(2)
    return x[:, :] * other.cos() + half * other.sin()


@pytest.mark.parametrize("program", (whole_slice, reshape, rotated), ids=lambda p: p.__name__)
def test_nothing_is_fused_across_the_write(program: Callable[..., Any]) -> None:
    counts = assert_like_eager(program, *inputs()).counts
    assert not counts.keys() & {"rms_norm", "add_rms_norm", "rotary"}, counts


def test_memory_is_given_away() -> None:
    """What the view writes to is the memory that h had when it was squared."""

    def program(x: Tensor, other: Tensor, weight: Tensor) -> Tensor:
        h = x * 1.5
        view = h[:2]
        mean = h.pow(2).mean(-1, keepdim=True)
        view.mul_(3.0)
        early = h * torch.rsqrt(mean + 1e-6) * weight
        h.set_(other)
        return early + norm(h, weight)

    counts = assert_like_eager(program, *inputs()).counts
    assert counts.get("rms_norm", 0) <= 1, "the norm behind `set_` is one, the other is not"


# --- all of it comes after the write --------------------------------------------------------------


def view_after(x: Tensor, other: Tensor, weight: Tensor) -> Tensor:
    x.add_(other)
    return norm(x.view(2, 2, 64), weight)


def slice_after(x: Tensor, other: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    x[1:] = other[1:]
    return norm(x[:3], weight), x


@pytest.mark.parametrize("program", (view_after, slice_after), ids=lambda p: p.__name__)
def test_still_a_norm(program: Callable[..., Any]) -> None:
    counts = assert_like_eager(program, *inputs()).counts
    assert sum(counts.get(name, 0) for name in ("rms_norm", "add_rms_norm")) == 1, counts


# --- heads of a cache -----------------------------------------------------------------------------


def repeated_after(x: Tensor, other: Tensor, weight: Tensor) -> Any:
    q, cache = x.view(1, 4, 4, 16), other.view(1, 4, 4, 16)[:, :2]
    cache[:, :, 1:2] = q[:, ::2, :1]
    k = cache[:, :, None].expand(1, 2, 2, 4, 16).reshape(1, 4, 4, 16)
    return F.softmax(q @ k.transpose(-1, -2) * 0.25, dim=-1) @ k, other


def repeated_before(x: Tensor, other: Tensor, weight: Tensor) -> Any:
    q, cache = x.view(1, 4, 4, 16), other.view(1, 4, 4, 16)[:, :2]
    k = cache[:, :, None].expand(1, 2, 2, 4, 16).reshape(1, 4, 4, 16)
    cache[:, :, 1:2] = q[:, ::2, :1]
    return F.softmax(q @ k.transpose(-1, -2) * 0.25, dim=-1) @ k, other


@pytest.mark.parametrize(("program", "groups"), ((repeated_after, 2), (repeated_before, 1)))
def test_heads_are_read_unrepeated_after_the_write(
    program: Callable[..., Any], groups: int
) -> None:
    sites = assert_like_eager(program, *inputs()).fused
    (site,) = (site for site in sites if site.fusion == "attention")
    assert site.bindings["kv_groups"] == groups
