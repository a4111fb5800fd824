"""What reads a value inside a site: dead calls and askers of shapes do no harm, all others do.

Also operands that several sites share, and operands that were joined or viewed before a cast.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import tile_backend
from tests.models.check import assert_like_eager

Tensor = torch.Tensor
DTYPES = (torch.float32, torch.bfloat16)


def drawn(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).to(dtype)


# --- results that nobody needs --------------------------------------------------------------------


def logged_norm(x: Tensor, w: Tensor, up: Tensor, kept: bool) -> Any:
    mean = x.pow(2).mean(-1, keepdim=True)
    size = mean.sqrt()
    normed = x * torch.rsqrt(mean + 1e-6) * w
    return (normed, size) if kept else normed


def kept_scores(x: Tensor, w: Tensor, up: Tensor, kept: bool) -> Any:
    scores = x @ up.transpose(-2, -1) * 0.25
    copy = scores.clone()
    attended = scores.softmax(-1) @ x
    return (attended, copy) if kept else attended


def logged_gate(x: Tensor, w: Tensor, up: Tensor, kept: bool) -> Any:
    activation = F.silu(x)
    sparsity = (activation.abs() < 0.01).float().mean()
    return (activation * up, sparsity) if kept else activation * up


def dead_by_its_shape(x: Tensor, w: Tensor, up: Tensor, kept: bool) -> Any:
    activation = F.silu(x)
    doubled = activation * 2
    ones = torch.ones_like(doubled)
    return activation * up, doubled if kept else ones


DEAD = (
    *((logged_norm, "rms_norm"), (kept_scores, "attention")),
    *((logged_gate, "silu_mul"), (dead_by_its_shape, "silu_mul")),
)


@pytest.mark.parametrize(("program", "fusion"), DEAD, ids=lambda p: getattr(p, "__name__", p))
@pytest.mark.parametrize("kept", [False, True], ids=["dropped", "returned"])
def test_a_reader_counts_where_something_needs_it(
    program: Callable[..., Any], fusion: str, kept: bool
) -> None:
    x, w, up = drawn(2, 3, 8, 16), drawn(16, seed=1), drawn(2, 3, 8, 16, seed=2)
    report = assert_like_eager(lambda x, w, up: program(x, w, up, kept), x, w, up)
    assert (report.counts.get(fusion) == 1) is not kept, report.counts


# --- readers of a shape ---------------------------------------------------------------------------


def mask_expanded_as_scores(q: Tensor, k: Tensor, v: Tensor, padding: Tensor) -> Tensor:
    scores = q @ k.transpose(-2, -1) / 4.0
    mask = (padding == 0).view(2, 1, 1, 8).expand_as(scores)
    return torch.softmax(scores.masked_fill(mask, torch.finfo(scores.dtype).min), -1) @ v


def mask_viewed_as_scores(q: Tensor, k: Tensor, v: Tensor, padding: Tensor) -> Tensor:
    scores = q @ k.transpose(-2, -1) / 4.0
    mask = (padding == 0).view(2, 1, 1, 8).expand(2, 4, 8, 8).contiguous().view_as(scores)
    return torch.softmax(scores.masked_fill(mask, torch.finfo(scores.dtype).min), -1) @ v


@pytest.mark.parametrize("program", [mask_expanded_as_scores, mask_viewed_as_scores])
def test_a_mask_may_ask_the_scores_for_their_shape(program: Callable[..., Any]) -> None:
    q, k, v = (drawn(2, 4, 8, 16, seed=i) for i in range(3))
    padding = torch.ones(2, 8)
    padding[1, 5:] = 0
    assert assert_like_eager(program, q, k, v, padding).counts == {"attention": 1}


def typed_as_the_gate(gate: Tensor, up: Tensor) -> Any:
    activation = F.silu(gate)
    return activation * up.type_as(activation)


def ones_beside(gate: Tensor, up: Tensor) -> Any:
    activation = F.silu(gate)
    return activation * up, torch.ones_like(activation), activation.new_full((2,), 3.0)


def read_beside(gate: Tensor, up: Tensor) -> Any:
    activation = F.silu(gate)
    return activation * up, activation.expand_as(up) + 1


@pytest.mark.parametrize(
    ("program", "counts"),
    [(typed_as_the_gate, {"silu_mul": 1}), (ones_beside, {"silu_mul": 1}), (read_beside, {})],
)
def test_who_asks_for_a_shape_is_no_reader(
    program: Callable[..., Any], counts: dict[str, int]
) -> None:
    report = assert_like_eager(program, drawn(2, 64), drawn(2, 64, seed=1))
    assert report.counts == counts


# --- operands that are shared ---------------------------------------------------------------------


def repeated(x: Tensor) -> Tensor:
    return x.repeat_interleave(4, 1)


def expanded(x: Tensor) -> Tensor:
    b, h, n, d = x.shape
    return x[:, :, None].expand(b, h, 4, n, d).reshape(b, 4 * h, n, d)


@pytest.mark.parametrize("repeat", [repeated, expanded])
def test_attentions_that_share_a_repeated_key_all_read_the_unrepeated_one(
    repeat: Callable[[Tensor], Tensor],
) -> None:
    def two_maps(q: Tensor, p: Tensor, k: Tensor, v: Tensor) -> Any:
        k, v = repeat(k), repeat(v)
        return tuple(F.scaled_dot_product_attention(x, k, v, is_causal=True) for x in (q, p))

    q, p = drawn(2, 8, 16, 16), drawn(2, 8, 16, 16, seed=1)
    k, v = drawn(2, 2, 16, 16, seed=2), drawn(2, 2, 16, 16, seed=3)
    report = assert_like_eager(two_maps, q, p, k, v)
    assert report.counts == {"attention": 2}
    bound = [site.call.arguments["k"].shape for site in report.sites if site.call is not None]
    assert bound == [(2, 2, 16, 16)] * 2


# --- operands that were joined or viewed before a cast --------------------------------------------


def half_turned(x: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return torch.cat((-second, first), -1)


def pairs_turned(x: Tensor) -> Tensor:
    real, imaginary = x.reshape(*x.shape[:-1], -1, 2).unbind(-1)
    return torch.stack([-imaginary, real], dim=-1).flatten(3)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("turned", [half_turned, pairs_turned])
@pytest.mark.parametrize("narrow", [True, False], ids=["narrowed", "wide"])
def test_a_rotation_of_joined_streams(
    turned: Callable[[Tensor], Tensor], dtype: torch.dtype, narrow: bool
) -> None:
    def joined(a: Tensor, b: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = torch.cat([a, b], dim=1)
        found = x.float() * cos + turned(x).float() * sin
        return found.to(x.dtype) if narrow else found

    a, b = drawn(1, 8, 4, 16, dtype=dtype), drawn(1, 16, 4, 16, dtype=dtype, seed=1)
    cos, sin = drawn(1, 24, 1, 16, seed=2), drawn(1, 24, 1, 16, seed=3)
    report = assert_like_eager(joined, a, b, cos, sin)
    assert report.counts == {"rotary": 1}
    (site,) = report.sites
    assert site.call is not None
    assert site.call.arguments["x"].dtype == str(dtype).removeprefix("torch."), "x before the cast"


def norm_of(x: Tensor, weight: Tensor) -> Tensor:
    wide = x.float()
    unit = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)
    return unit.to(x.dtype) * weight


MOVED: tuple[Callable[[Tensor], Tensor], ...] = (
    lambda x: x.view(2, 4, 2, 32).transpose(1, 2),
    lambda x: x[..., :32],
    lambda x: torch.cat([x[..., :16], x[..., 48:]], -1),
    lambda x: x.view(2, 4, 2, 32).unbind(2)[1],
    lambda x: torch.stack([x[..., :32], x[..., 32:]], 1),
)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("move", MOVED, ids=["view", "slice", "cat", "unbind", "stack"])
def test_a_norm_takes_moved_data_before_the_cast(
    move: Callable[[Tensor], Tensor], dtype: torch.dtype
) -> None:
    x, weight = drawn(2, 4, 64, dtype=dtype), drawn(32, dtype=dtype, seed=1)
    report = assert_like_eager(lambda x, weight: norm_of(move(x), weight), x, weight)
    assert report.counts == {"rms_norm": 1}
    (site,) = report.sites
    assert site.call is not None
    assert site.call.arguments["x"].dtype == str(dtype).removeprefix("torch.")
    assert site.call.arguments["weight"] is not None, "the site ends in front of the weight"


def test_a_site_does_not_reach_past_its_operands() -> None:
    """The product belongs to no rotation, whichever way leads to it."""

    def program(x: Tensor, w: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        heads = F.linear(x, w).view(1, 24, 2, 16).transpose(1, 2)
        return heads.float() * cos + half_turned(heads).float() * sin

    x, w = drawn(1, 24, 32, dtype=torch.bfloat16), drawn(32, 32, dtype=torch.bfloat16, seed=1)
    (site,) = tile_backend.explain(program, x, w, drawn(24, 16), drawn(24, 16, seed=1)).sites
    assert site.fusion == "rotary"
    assert "linear" not in site.ops


# --- what a report says of them -------------------------------------------------------------------


def causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    n = q.shape[2]
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    visible = torch.ones(n, n, dtype=torch.bool, device=q.device).tril()
    return F.scaled_dot_product_attention(q, k, v, attn_mask=visible)


def all_visible(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    n = q.shape[2]
    visible = torch.ones(n, n, dtype=torch.bool, device=q.device)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=visible)


@pytest.mark.parametrize(
    ("program", "heads", "said"),
    [
        (causal, 2, "SDPA skips what it hides and takes K and V unexpanded"),
        (causal, 8, "SDPA skips what it hides"),
        (all_visible, 8, "SDPA reads no mask"),
    ],
)
def test_a_gain_is_said_of_what_was_bound(
    program: Callable[..., Any], heads: int, said: str
) -> None:
    q, k, v = drawn(2, 8, 16, 16), drawn(2, heads, 16, 16), drawn(2, heads, 16, 16, seed=1)
    torch._dynamo.reset()  # or the number of heads is a symbol from the second case on
    (site,) = tile_backend.explain(program, q, k, v).sites
    assert site.decision is not None
    assert site.decision.evidence.endswith(f": {said}")
