"""The references of the attention ops, in plain PyTorch: which keys a query sees, scores, softmax.

Query i stands at position start + i, and at offset (a tensor of one element) later than that; key j
at position j. Everything is computed in float32; inputs and results are in the model's dtype.

`form` says how the model wrote it, which shows only where a number is not finite (a hidden NaN that
-inf is added to stays NaN, one that is filled is gone) or so large that a product overflows:
  sdpa           scaled_dot_product_attention, with is_causal, with a mask tensor or with neither
  sdpa masked    the same, with a mask tensor that the other arguments now stand for
  added WHERE    by hand, a mask added to the scores; WHERE the scale is: scores, q, k or none
  filled WHERE   by hand, hidden scores replaced
with the word `shifted` behind it where the largest score is subtracted before the softmax. The last
word is what a mask tensor added to hide a score, or what took its place, if that was not -inf and
no `fill` says so.
"""

from __future__ import annotations

import functools
import math
import operator
from typing import Any

import torch
import torch.nn.functional as F

SDPA, MASKED_SDPA = "sdpa", "sdpa masked"
"""See `form` above."""


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
    if q.shape[1] == x.shape[1]:  # which may be 0
        return x
    return x.repeat_interleave(q.shape[1] // x.shape[1], 1)


def capped(scores: torch.Tensor, softcap: float | None) -> torch.Tensor:
    """softcap * tanh(scores / softcap), as Gemma 2 bounds its scores."""
    return scores if softcap is None else softcap * torch.tanh(scores / softcap)


def by_hand(form: str) -> bool:
    """Whether the model wrote out the products and the softmax."""
    return not form.startswith(SDPA)


def adds(form: str, fill: float | None, mask: torch.Tensor | None) -> bool:
    """Whether a hidden score is the score and something, which stays NaN where the score is.

    SDPA adds what a mask tensor says, and replaces what is_causal hides.
    """
    if by_hand(form):
        return form.startswith("added")
    return form != SDPA or (fill is None and mask is not None)


def lowest(form: str, fill: float | None) -> float:
    """What a hidden score is, or has had added."""
    if fill is not None:
        return fill
    return next((float(word) for word in form.split() if word.startswith("-")), -math.inf)


def products(q: torch.Tensor, k: torch.Tensor, scale: float, form: str) -> torch.Tensor:
    """q @ k^T * scale, float32; scaled first what the model scales first."""
    queries, keys = q.float(), per_query_head(q, k).float()
    words = form.split()
    if "q" in words:
        return (queries * scale) @ keys.transpose(-1, -2)
    if "k" in words:
        return queries @ (keys * scale).transpose(-1, -2)
    return (queries @ keys.transpose(-1, -2)) * scale


def logits(
    q: torch.Tensor,
    k: torch.Tensor,
    mask: torch.Tensor | None = None,
    scale: float = 1.0,
    softcap: float | None = None,
    fill: float | None = None,
    form: str = SDPA,
    **places: Any,
) -> torch.Tensor:
    """What the softmax is taken of, float32 [B, H, S, L]; with `fill`, or -inf, where hidden."""
    scores = capped(products(q, k, scale, form), softcap)
    if mask is not None and is_added(mask):
        scores = scores + mask
    hidden = invisible(q, k, mask, **places)
    if hidden is None:
        return scores
    if adds(form, fill, mask):
        return torch.where(hidden, scores + lowest(form, fill), scores)
    return scores.masked_fill(hidden, lowest(form, fill))


def invisible(
    q: torch.Tensor, k: torch.Tensor, mask: torch.Tensor | None = None, **places: Any
) -> torch.Tensor | None:
    """True where places or a boolean mask hide a key; None where nothing does."""
    visible = seen(q, k, **places)
    if mask is not None and not is_added(mask):
        visible = mask if visible is None else visible & mask
    return None if visible is None else ~visible


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
    every = with_sinks(scores, sinks)
    if "shifted" in others.get("form", SDPA).split():
        every = every - every.max(dim=-1, keepdim=True).values
    weights = F.softmax(every, dim=-1)
    if sinks is not None:
        weights = weights[..., :-1]
    if fill is None and not by_hand(others.get("form", SDPA)):
        # SDPA gives 0 to a query that sees nothing.
        weights = weights.masked_fill((scores == -math.inf).all(-1, keepdim=True), 0.0)
    return (weights @ per_query_head(q, v).float()).to(q.dtype)


def log_sum_exp(
    q: torch.Tensor, k: torch.Tensor, sinks: torch.Tensor | None = None, **others: Any
) -> torch.Tensor:
    """log(sum(exp(logits))), float32 [B, H, S]; -inf for a query that sees nothing.

    NaN where all the weights of a softmax are: beside an infinite score, and by hand without a
    finite one.
    """
    found = torch.logsumexp(with_sinks(logits(q, k, **others), sinks), dim=-1)
    nan = found.isinf() if by_hand(others.get("form", SDPA)) else found == math.inf
    return found.masked_fill(nan, math.nan)


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
    whole = log_sum_exp(q, k, sinks, **others)
    scores = with_sinks(logits(q, k, **others), sinks)
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
    delta: torch.Tensor | None,
    softcap: float | None = None,
    **others: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The softmax's weights P, and the gradients of q @ k^T * scale, both float32 [B, H, S, L].

    dS = P * (dO @ V^T - delta), delta = sum(dO * O) per query (Dao et al., arXiv:2205.14135,
    appendix B.4); through a soft cap times 1 - (score / softcap)**2. delta None: computed as the
    derivative of a softmax is. A score that is filled has no gradient, whatever else is NaN.
    """
    scores = logits(q, k, softcap=softcap, **others)
    form, mask = others.get("form", SDPA), others["mask"]
    whole, rest = lse.unbind() if is_added(mask) else (lse, None)
    difference = scores - whole[..., None]
    weights = torch.exp(difference if rest is None else difference - rest[..., None])
    weights = weights.masked_fill((whole == -math.inf)[..., None], 0.0)
    low = lowest(form, None)
    if rest is None and math.isfinite(low):
        weights = weights / sum_of_weights(weights, whole, low)
    slopes = dout.float() @ per_query_head(q, v).float().transpose(-1, -2)
    if delta is None:
        delta = (weights * slopes).sum(-1)
    slopes = weights * (slopes - delta[..., None])
    hidden = None if adds(form, None, mask) else invisible(q, k, **others)
    if hidden is not None:
        slopes = slopes.masked_fill(hidden, 0.0)
    if softcap is not None:
        unmasked = logits(q, k, None, others["scale"], softcap, form=form)
        slopes = slopes * (1 - (unmasked / softcap).square())
    return weights, slopes


def sum_of_weights(weights: torch.Tensor, lse: torch.Tensor, low: float) -> torch.Tensor:
    """What the weights of a query add up to where that should be 1, [B, H, S, 1]; elsewhere 1.

    Where a query sees only scores of -inf, all weight is on keys that are hidden by `low`, and
    beside that number nothing is left in lse of the logarithm of how many they are.
    """
    return torch.where((lse < low / 2)[..., None], weights.sum(-1, keepdim=True), 1.0)


def gradient_of_q(
    q: torch.Tensor, k: torch.Tensor, slopes: torch.Tensor, scale: float, form: str = SDPA, **_: Any
) -> torch.Tensor:
    """What `products` does, backward: slopes are the gradients of its result."""
    keys, words = per_query_head(q, k).float(), form.split()
    if "q" in words:
        return (slopes @ keys) * scale
    return slopes @ (keys * scale) if "k" in words else (slopes * scale) @ keys


def gradient_of_k(
    q: torch.Tensor, slopes: torch.Tensor, scale: float, form: str = SDPA, **_: Any
) -> torch.Tensor:
    """The same of k, for each query head."""
    queries, words, turned = q.float(), form.split(), slopes.transpose(-1, -2)
    if "k" in words:
        return (turned @ queries) * scale
    return turned @ (queries * scale) if "q" in words else (turned * scale) @ queries


def per_key_head(k: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """[B, H, L, D] summed over the query heads of each group: [B, K, L, D]."""
    if gradient.shape[1] == k.shape[1]:  # which may be 0
        return gradient
    groups: torch.Tensor = gradient.unflatten(1, (k.shape[1], -1))
    return groups.sum(2)
