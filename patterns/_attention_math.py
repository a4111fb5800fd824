"""The references of the attention ops, in plain PyTorch: which keys a query sees, scores, softmax.

Query i stands at position start + i, and at offset (a tensor of one element) later than that; key j
at position j. Everything is computed in float32; inputs and results are in the model's dtype.
"""

from __future__ import annotations

import functools
import math
import operator
from typing import Any

import torch
import torch.nn.functional as F


def seen(
    q: torch.Tensor,
    k: torch.Tensor,
    padding: torch.Tensor | None = None,
    segments: torch.Tensor | None = None,
    offset: torch.Tensor | None = None,
    is_causal: bool = False,
    start: int = 0,
    window: int | None = None,
    chunk: int | None = None,
    **_: Any,
) -> torch.Tensor | None:
    """True where a query sees a key, broadcasts to [B, 1, S, L]; None where it sees all of them.

    is_causal: no later key. window: only keys less than `window` positions before the query.
    chunk: only keys with the same position // chunk. padding [B or 1, L]: only keys with True.
    segments [B or 1, L], integers: only keys whose segment is that of the query's position.
    """
    key = torch.arange(k.shape[2], device=q.device)
    position = torch.arange(q.shape[2], device=q.device) + start
    if offset is not None:
        position = position + offset.reshape(())
    query = position[:, None]
    parts = []
    if is_causal:
        parts.append(key <= query)
    if window is not None:
        parts.append(query - key < window)
    if chunk is not None:
        parts.append(torch.div(query, chunk, rounding_mode="floor") == key // chunk)
    if padding is not None:
        parts.append(padding[:, None, None, :])
    if segments is not None:
        own = segments.index_select(1, position)
        parts.append(own[:, None, :, None] == segments[:, None, None, :])
    return functools.reduce(operator.and_, parts) if parts else None


def per_query_head(q: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """k or v with the heads of q: each is repeated for the query heads of its group."""
    groups = q.shape[1] // x.shape[1]
    return x if q.shape[1] == x.shape[1] else x.repeat_interleave(groups, 1)


def capped(scores: torch.Tensor, softcap: float | None) -> torch.Tensor:
    """softcap * tanh(scores / softcap), as Gemma 2 bounds its scores."""
    return scores if softcap is None else softcap * torch.tanh(scores / softcap)


def logits(
    q: torch.Tensor,
    k: torch.Tensor,
    mask: torch.Tensor | None = None,
    scale: float = 1.0,
    softcap: float | None = None,
    fill: float | None = None,
    **places: Any,
) -> torch.Tensor:
    """What the softmax is taken of, float32 [B, H, S, L]; `fill`, or else -inf, where hidden."""
    scores = (q.float() @ per_query_head(q, k).float().transpose(-1, -2)) * scale
    scores = capped(scores, softcap)
    visible = seen(q, k, **places)
    if mask is not None and mask.dtype != torch.bool:
        scores = scores + mask
    elif mask is not None:
        visible = mask if visible is None else visible & mask
    if visible is None:
        return scores
    return scores.masked_fill(~visible, -math.inf if fill is None else fill)


def with_sinks(scores: torch.Tensor, sinks: torch.Tensor | None) -> torch.Tensor:
    """One more column, the sink of each head (gpt-oss): it takes weight and has no value."""
    if sinks is None:
        return scores
    column = sinks.float().reshape(1, -1, 1, 1)
    return torch.cat([scores, column.expand(*scores.shape[:-1], 1)], dim=-1)


def written_out(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    sinks: torch.Tensor | None = None,
    fill: float | None = None,
    **others: Any,
) -> torch.Tensor:
    """softmax(logits) @ v, with the score matrix in memory."""
    scores = logits(q, k, fill=fill, **others)
    weights = F.softmax(with_sinks(scores, sinks), dim=-1)
    if sinks is not None:
        weights = weights[..., :-1]
    if fill is None:  # SDPA gives 0 to a query that sees nothing
        weights = weights.masked_fill((scores == -math.inf).all(-1, keepdim=True), 0.0)
    return (weights @ per_query_head(q, v).float()).to(q.dtype)


def log_sum_exp(
    q: torch.Tensor, k: torch.Tensor, sinks: torch.Tensor | None = None, **others: Any
) -> torch.Tensor:
    """log(sum(exp(logits))), float32 [B, H, S]; -inf for a query that sees nothing."""
    return torch.logsumexp(with_sinks(logits(q, k, **others), sinks), dim=-1)


def is_added(mask: torch.Tensor | None) -> bool:
    """Whether a mask is added to the scores; else it is boolean."""
    return mask is not None and mask.dtype != torch.bool


def log_sum_exp_in_two(
    fill: float | None,
    q: torch.Tensor,
    k: torch.Tensor,
    sinks: torch.Tensor | None = None,
    **others: Any,
) -> torch.Tensor:
    """[2, B, H, S]: `log_sum_exp`, and what has to be added to it for the exact sum.

    A query that sees nothing has (-inf, 0), or with a `fill` (nan, 0): torch.softmax gives it nan.
    """
    scores = with_sinks(logits(q, k, **others), sinks)
    whole = torch.logsumexp(scores, dim=-1)
    peak = scores.amax(-1)
    rest = (scores - peak[..., None]).exp().sum(-1).log() - (whole - peak)
    nothing = peak == -math.inf
    rest = rest.masked_fill(nothing, 0.0)
    if fill is not None:
        whole = whole.masked_fill(nothing, math.nan)
    return torch.stack([whole, rest])


def weights_and_slopes(
    dout: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    lse: torch.Tensor,
    delta: torch.Tensor,
    softcap: float | None = None,
    **others: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The softmax's weights P, and the gradients of q @ k^T * scale, both float32 [B, H, S, L].

    dS = P * (dO @ V^T - delta), delta = sum(dO * O) per query (Dao et al., arXiv:2205.14135,
    appendix B.4); through a soft cap times 1 - (score / softcap)**2.
    """
    scores = logits(q, k, softcap=softcap, **others)
    whole, rest = lse.unbind() if is_added(others["mask"]) else (lse, None)
    difference = scores - whole[..., None]
    weights = torch.exp(difference if rest is None else difference - rest[..., None])
    weights = weights.masked_fill((whole == -math.inf)[..., None], 0.0)
    slopes = dout.float() @ per_query_head(q, v).float().transpose(-1, -2) - delta[..., None]
    slopes = weights * slopes
    if softcap is not None:
        unmasked = logits(q, k, None, others["scale"], softcap)
        slopes = slopes * (1 - (unmasked / softcap).square())
    return weights, slopes


def per_key_head(k: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """[B, H, L, D] summed over the query heads of each group: [B, K, L, D]."""
    groups = gradient.shape[1] // k.shape[1]
    return gradient if groups == 1 else gradient.unflatten(1, (-1, groups)).sum(2)
