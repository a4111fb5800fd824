"""How softmax attention is written: the functions that the spellings of `attention` are made of.

Also the forms that are recognised without an op that has their meaning, and those that must never
match. q [B, H, S, D], k [B, K, L, D], v [B, K, L, E], masks broadcast to [B, H, S, L].
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F

# --- one call of scaled_dot_product_attention -----------------------------------------------------


def sdpa(q: Any, k: Any, v: Any, mask: Any, scale: Any, causal: bool, gqa: bool) -> Any:
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=causal, scale=scale, enable_gqa=gqa
    )


def sdpa_masked(q: Any, k: Any, v: Any, mask: Any, scale: Any) -> Any:
    return sdpa(q, k, v, mask, scale, False, False)


def sdpa_causal(q: Any, k: Any, v: Any, scale: Any) -> Any:
    return sdpa(q, k, v, None, scale, True, False)


def sdpa_masked_gqa(q: Any, k: Any, v: Any, mask: Any, scale: Any) -> Any:
    return sdpa(q, k, v, mask, scale, False, True)


def sdpa_causal_gqa(q: Any, k: Any, v: Any, scale: Any) -> Any:
    return sdpa(q, k, v, None, scale, True, True)


# --- written out: scores, mask, softmax, product --------------------------------------------------


def scores_of(q: Any, k: Any, scale: Any, where: str) -> Any:
    """The scale is applied to the scores, to q, to k, or nowhere."""
    if where == "q":
        return (q * scale) @ k.transpose(-1, -2)
    if where == "k":
        return q @ (k * scale).transpose(-1, -2)
    scores = q @ k.transpose(-1, -2)
    return scores if where == "none" else scores * scale


def added(scores: Any, mask: Any) -> Any:
    return scores if mask is None else scores + mask


def filled(scores: Any, masked: Any, fill: Any) -> Any:
    return scores.masked_fill(masked, fill)


def selected(scores: Any, visible: Any, fill: Any) -> Any:
    return torch.where(visible, scores, fill)


def eager(where: str) -> Callable[..., Any]:
    def attention(q: Any, k: Any, v: Any, mask: Any, scale: Any) -> Any:
        return F.softmax(added(scores_of(q, k, scale, where), mask), dim=-1).to(v.dtype) @ v

    return attention


def eager_filled(where: str) -> Callable[..., Any]:
    def attention(q: Any, k: Any, v: Any, masked: Any, scale: Any, fill: Any) -> Any:
        scores = filled(scores_of(q, k, scale, where), masked, fill)
        return F.softmax(scores, dim=-1).to(v.dtype) @ v

    return attention


def eager_selected(where: str) -> Callable[..., Any]:
    def attention(q: Any, k: Any, v: Any, visible: Any, scale: Any, fill: Any) -> Any:
        scores = selected(scores_of(q, k, scale, where), visible, fill)
        return F.softmax(scores, dim=-1).to(v.dtype) @ v

    return attention


def capped(scores: Any, softcap: Any) -> Any:
    """Gemma 2: the scores are bounded before the mask."""
    return torch.tanh(scores / softcap) * softcap


def soft_capped(where: str) -> Callable[..., Any]:
    def attention(q: Any, k: Any, v: Any, mask: Any, scale: Any, softcap: Any) -> Any:
        scores = added(capped(scores_of(q, k, scale, where), softcap), mask)
        return F.softmax(scores, dim=-1).to(v.dtype) @ v

    return attention


def soft_capped_filled(where: str) -> Callable[..., Any]:
    def attention(q: Any, k: Any, v: Any, masked: Any, scale: Any, fill: Any, softcap: Any) -> Any:
        scores = filled(capped(scores_of(q, k, scale, where), softcap), masked, fill)
        return F.softmax(scores, dim=-1).to(v.dtype) @ v

    return attention


def with_sinks(where: str, shifted: bool) -> Callable[..., Any]:
    """gpt-oss: one more column, of no value. shifted: by the maximum, before the softmax is."""

    def attention(q: Any, k: Any, v: Any, mask: Any, sinks: Any, scale: Any) -> Any:
        scores = added(scores_of(q, k, scale, where), mask)
        column = sinks.reshape(1, -1, 1, 1).expand(q.shape[0], -1, q.shape[-2], -1)
        logits = torch.cat((scores, column), -1)
        if shifted:
            logits = logits - logits.max(dim=-1, keepdim=True).values
        return F.softmax(logits, dim=-1)[..., :-1].to(v.dtype) @ v

    return attention


def inverted(masked: Any, **arguments: Any) -> dict[str, Any]:
    return {**arguments, "mask": torch.logical_not(masked)}


def renamed(visible: Any, **arguments: Any) -> dict[str, Any]:
    return {**arguments, "mask": visible}


# --- three dimensions: batch and heads are one ----------------------------------------------------

FLAT = {name: f"{name}3" for name in ("q", "k", "v", "mask", "masked", "visible")}
"""Hole of four dimensions -> the hole of three that stands in its place."""


def flat(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function of q3 [N, S, D], k3 [N, L, D], v3 [N, L, E], mask [1 or N, S, L]."""
    names = {FLAT.get(name, name): name for name in inspect.signature(function).parameters}

    def attention(**given: Any) -> Any:
        return function(**{names[name]: value for name, value in given.items()})

    parameters = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in names]
    attention.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return attention


def one_batch(transform: Callable[..., Mapping[str, Any]] | None) -> Callable[..., dict[str, Any]]:
    """Every operand with a batch of one in front."""

    def batched(**given: Any) -> dict[str, Any]:
        four = {name.removesuffix("3"): tensor.unsqueeze(0) for name, tensor in given.items()}
        return dict(transform(**four)) if transform else four

    return batched


def without_batch(result: Any) -> Any:
    return result.squeeze(0)


def expanded(function: Callable[..., Any]) -> Callable[..., Any]:
    """K and V repeated once per query head of their group; the op reads them before that."""

    @functools.wraps(function)
    def repeated(q: Any, k: Any, v: Any, **others: Any) -> Any:
        groups = q.shape[1] // k.shape[1]
        k, v = (t.repeat_interleave(groups, 1) for t in (k, v))
        return function(q, k, v, **others)

    return repeated


# --- recognised, not yet supported ----------------------------------------------------------------


def with_dropout(q: Any, k: Any, v: Any, mask: Any, scale: Any, dropout: Any) -> Any:
    weights = F.softmax(added(scores_of(q, k, scale, "scores"), mask), dim=-1).to(v.dtype)
    return F.dropout(weights, p=dropout, training=True) @ v


def sdpa_causal_dropout(q: Any, k: Any, v: Any, scale: Any, dropout: Any) -> Any:
    return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True, scale=scale)


def sdpa_dropout(q: Any, k: Any, v: Any, mask: Any, scale: Any, dropout: Any) -> Any:
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=False, scale=scale
    )


def softmax_over_queries(q: Any, k: Any, v: Any, scale: Any) -> Any:
    """the softmax is over the queries, not over the keys."""
    return F.softmax(scores_of(q, k, scale, "scores"), dim=-2) @ v


def no_softmax(q: Any, k: Any, v: Any, scale: Any) -> Any:
    """there is no softmax between the two products."""
    return scores_of(q, k, scale, "scores") @ v
