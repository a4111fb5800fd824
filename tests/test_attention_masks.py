"""A mask that is proven causal is left out of attention; any other stays; results are eager's."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import tile_backend
from tests.core_graph import capture
from tests.models.check import assert_like_eager
from tile_backend.options import Options

BF16, F32, F16 = torch.bfloat16, torch.float32, torch.float16
Mask = Callable[[torch.Tensor], torch.Tensor]


def causal(q: torch.Tensor) -> torch.Tensor:
    """[B, 1, S, S], as Transformers makes it."""
    positions = torch.arange(q.shape[2])
    mask = positions[None, None, None, :] <= positions[None, None, :, None]
    return mask.expand(q.shape[0], -1, -1, -1)


def sees_one_more(q: torch.Tensor) -> torch.Tensor:
    positions = torch.arange(q.shape[2])
    return causal(q) | ((positions == 3)[:, None] & (positions == 5)[None, :])


def everything(q: torch.Tensor) -> torch.Tensor:
    return torch.ones(q.shape[2], q.shape[2], dtype=torch.bool)


def expanded(x: torch.Tensor, groups: int) -> torch.Tensor:
    """repeat_kv."""
    batch, heads, length, width = x.shape
    x = x[:, :, None].expand(batch, heads, groups, length, width)
    return x.reshape(batch, heads * groups, length, width)


def sdpa(mask: Mask) -> Callable[..., torch.Tensor]:
    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return F.scaled_dot_product_attention(
            q, expanded(k, 2), expanded(v, 2), attn_mask=mask(q), scale=0.25
        )

    return attend


def added(mask: Mask, fill: float | None = None) -> Callable[..., torch.Tensor]:
    """scores + mask, where the mask is the dtype's lowest number or `fill`."""

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        low = torch.finfo(q.dtype).min if fill is None else fill
        hidden = torch.zeros_like(mask(q), dtype=q.dtype).masked_fill(~mask(q), low)
        scores = q @ expanded(k, 2).transpose(2, 3) * 0.25 + hidden
        return F.softmax(scores, dim=-1, dtype=torch.float32).to(q.dtype) @ expanded(v, 2)

    return attend


def filled(mask: Mask, fill: float = -math.inf) -> Callable[..., torch.Tensor]:
    """scores.masked_fill(hidden, fill)."""

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        scores = (q @ expanded(k, 2).transpose(2, 3) * 0.25).masked_fill(~mask(q), fill)
        return F.softmax(scores, dim=-1, dtype=torch.float32).to(q.dtype) @ expanded(v, 2)

    return attend


def inputs(dtype: torch.dtype = F32) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"q": (2, 4, 9, 16), "k": (2, 2, 9, 16), "v": (2, 2, 9, 16)}
    return {n: torch.randn(s, generator=generator).to(dtype) for n, s in shapes.items()}


def attention_of(function: Callable[..., Any], options: Options, dtype: torch.dtype = F32) -> Any:
    """The one site, and the graph as code."""
    module, sites = capture(function, inputs(dtype)).rewritten(options)
    (site,) = (site for site in sites if site.fusion == "attention")
    return site, module.code


FORMS = (sdpa, added, filled)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_a_causal_mask_is_left_out(form: Any) -> None:
    site, code = attention_of(form(causal), Options())
    assert (site.decision, site.decision.respelled) == ("reference", True)
    assert site.bindings["mask"] == "causal"
    given = site.call.arguments
    assert (given["mask"], given["is_causal"], given["k"].shape[1]) == (None, True, 2)
    assert "tilegym.attention.default(" in code
    assert "softmax" not in code
    assert "reshape" not in code


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_so_is_one_that_shows_everything(form: Any) -> None:
    site, code = attention_of(form(everything), Options())
    assert (site.decision.respelled, site.bindings["mask"]) == (True, "none")
    assert (site.call.arguments["mask"], site.call.arguments["is_causal"]) == (None, False)
    assert "tilegym.attention.default(" in code


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_one_more_key_and_the_mask_stays(form: Any) -> None:
    site, code = attention_of(form(sees_one_more), Options())
    assert not site.decision.respelled
    assert site.bindings["mask"] == "tensor"
    assert "tilegym" not in code


@pytest.mark.parametrize(
    ("function", "dtype"),
    (
        (filled(causal, -1e4), F32),
        (added(causal, -1e4), F32),
        (added(causal), F16),
        (filled(causal, torch.finfo(F16).min), F16),
    ),
)
def test_what_hides_only_a_little_stays(function: Any, dtype: torch.dtype) -> None:
    site, _ = attention_of(function, Options(), dtype)
    assert not site.decision.respelled
    assert "is_causal" not in site.bindings


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_the_op_gets_the_meaning_in_the_place_of_the_mask(form: Any) -> None:
    site, code = attention_of(form(causal), Options(kernels="always"))
    assert site.call.arguments["mask"] is None
    assert site.call.arguments["is_causal"] is True
    assert site.call.arguments["fill"] is None
    assert "tilegym.attention" in code


@pytest.mark.sampled(4)
@pytest.mark.parametrize("mask", (causal, sees_one_more, everything), ids=lambda m: m.__name__)
@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
@pytest.mark.parametrize("kernels", ("auto", "always"))
@pytest.mark.parametrize("dtype", (F32, BF16), ids=str)
def test_results_and_gradients_are_those_of_eager(
    mask: Mask, form: Any, kernels: str, dtype: torch.dtype
) -> None:
    tensors = [tensor.requires_grad_() for tensor in inputs(dtype).values()]
    report = assert_like_eager(form(mask), *tensors, options={"tilegym.kernels": kernels})
    assert report.counts == {"attention": 1}


@pytest.mark.parametrize("low", (None, -math.inf))
@pytest.mark.parametrize("form", (added, filled), ids=lambda form: form.__name__)
@pytest.mark.parametrize("kernels", ("auto", "always", "interpret"))
def test_gradients_of_a_query_that_sees_nothing(kernels: str, form: Any, low: float | None) -> None:
    """Scores to which a number is added still have a gradient; filled ones have none."""
    low = torch.finfo(F32).min if low is None else low

    def attend(
        q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, shown: torch.Tensor
    ) -> torch.Tensor:
        def mask(q: torch.Tensor) -> torch.Tensor:
            return causal(q) & shown[:, None, None, :]

        result: torch.Tensor = form(mask, low)(q, k, v)
        return result

    tensors = [tensor.requires_grad_() for tensor in inputs().values()]
    shown = torch.arange(9) >= torch.tensor([[4], [0]])
    report = assert_like_eager(attend, *tensors, shown, options={"tilegym.kernels": kernels})
    assert report.counts == {"attention": 1}
    (site,) = report.fused
    assert site.bindings["mask"] == "causal+padding"
    assert site.bindings.get("is_causal", False) == (form is filled)


@pytest.mark.parametrize("dtype", (torch.bool, torch.int64, F32), ids=str)
def test_ones_that_are_added_hide_nothing_and_stay(dtype: torch.dtype) -> None:
    """A triangle of ones raises scores; it is no mask."""

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        scores = q @ expanded(k, 2).transpose(2, 3) * 0.25 + causal(q).to(dtype)
        return F.softmax(scores, dim=-1) @ expanded(v, 2)

    assert_like_eager(attend, *inputs().values(), options={})
    report = tile_backend.last_report()
    assert report is not None
    assert not any(site.decision.respelled for site in report.fused if site.decision)


def test_never_means_never() -> None:
    site, code = attention_of(sdpa(causal), Options(kernels="never"))
    assert not site.decision.respelled
    assert "tilegym" not in code


@pytest.mark.parametrize("dynamic", (None, True))
def test_more_queries_than_keys_and_fewer(dynamic: bool | None) -> None:
    """is_causal aligns the first query with the first key, as the mask says; not the last."""

    def attend(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        mask = torch.arange(k.shape[2])[None, :] <= torch.arange(q.shape[2])[:, None]
        return F.scaled_dot_product_attention(q, k, k, attn_mask=mask, scale=0.25)

    for queries, keys in ((5, 9), (9, 5)):
        q, k = torch.randn(1, 2, queries, 16), torch.randn(1, 2, keys, 16)
        assert_like_eager(attend, q, k, options={}, dynamic=dynamic)
        report = tile_backend.last_report()
        assert report is not None
        assert [site.bindings["mask"] for site in report.fused] == ["causal"]


def test_a_report_says_what_was_respelled() -> None:
    report = tile_backend.explain(sdpa(causal), *inputs().values())
    text = report.to_text()
    assert "respelled for Inductor x1: the mask is causal: SDPA skips what it hides" in text
    assert report.sites[0].decision is not None
    assert report.sites[0].decision.respelled


@pytest.mark.parametrize(
    ("length", "window", "chunk"), [(300, 100, None), (600, 300, None), (400, None, 150)]
)
@pytest.mark.parametrize("dtype", (F32, BF16), ids=str)
def test_windows_and_chunks_are_cut_into_blocks(
    length: int, window: int | None, chunk: int | None, dtype: torch.dtype
) -> None:
    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        query, key = torch.arange(length)[:, None], torch.arange(length)
        near = query - key < window if window else query // chunk == key // chunk
        mask = (key <= query) & near
        return F.scaled_dot_product_attention(q, expanded(k, 2), expanded(v, 2), mask, scale=0.25)

    q, kv = torch.randn(2, 4, length, 16), torch.randn(2, 2, length, 16)
    tensors = [tensor.to(dtype).requires_grad_() for tensor in (q, kv, kv.clone())]
    report = assert_like_eager(attend, *tensors, options={})
    (site,) = report.fused
    name = f"window({window})" if window else f"chunk({chunk})"
    assert site.bindings["mask"] == f"causal+{name}"
    assert site.decision is not None
    assert "each block of queries reads only the keys that it sees" in site.decision.evidence


def test_the_length_of_a_cache_is_read_before_it_grows() -> None:
    """The op stands behind the write, and is told the length that the mask read."""

    def step(
        q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, length: torch.Tensor
    ) -> torch.Tensor:
        mask = torch.arange(32)[None, :] <= (torch.arange(1) + length)[:, None]
        length.add_(5)
        return F.scaled_dot_product_attention(q, k, v, mask, scale=0.25)

    q, kv = torch.randn(2, 4, 1, 16), torch.randn(2, 4, 32, 16)
    given = q, kv, kv.clone(), torch.tensor(9)
    (site,) = assert_like_eager(step, *given, found={"attention": 1}).fused
    assert site.call is not None
    assert site.call.arguments["mask"] is None
    assert site.call.arguments["offset"] is not None


@pytest.mark.parametrize(("dtype", "respelled"), [(F32, True), (BF16, False)], ids=str)
def test_decoding_on_a_cpu_reads_k_and_v_unexpanded(dtype: torch.dtype, respelled: bool) -> None:
    """The length of a static cache is a tensor, so the mask stays."""

    def step(
        q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, length: torch.Tensor
    ) -> torch.Tensor:
        mask = torch.arange(32)[None, :] <= (torch.arange(1) + length)[:, None]
        length.add_(1)
        return F.scaled_dot_product_attention(q, expanded(k, 2), expanded(v, 2), mask, scale=0.25)

    q, kv = torch.randn(2, 4, 1, 16).to(dtype), torch.randn(2, 2, 32, 16).to(dtype)
    report = assert_like_eager(step, q, kv, kv.clone(), torch.tensor(9), options={})
    (site,) = report.fused
    assert site.decision is not None
    assert site.decision.respelled is respelled
    assert ("K and V are read unexpanded" in site.decision.evidence) is respelled
    assert site.bindings["mask"] == "causal(l_length_)"
