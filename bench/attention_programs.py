"""What a case of `bench.attention` computes, as Transformers writes it.

Without a soft cap and without sinks that is `scaled_dot_product_attention`; with one of them the
products, the cap, the mask and the softmax stand one by one, as in Gemma 2 and GPT-OSS.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F

from bench.attention_cases import Case

Program = Callable[..., torch.Tensor]


def causal(query: torch.Tensor, key: torch.Tensor, case: Case, *_: torch.Tensor) -> torch.Tensor:
    """No later key."""
    return key <= query


def window(query: torch.Tensor, key: torch.Tensor, case: Case, *_: torch.Tensor) -> torch.Tensor:
    """Only keys less than `size` positions before the query."""
    return (key <= query) & (query - key < case.size)


def chunk(query: torch.Tensor, key: torch.Tensor, case: Case, *_: torch.Tensor) -> torch.Tensor:
    """Only keys with the same position // size."""
    return (key <= query) & (query // case.size == key // case.size)


def padding(
    query: torch.Tensor, key: torch.Tensor, case: Case, valid: torch.Tensor
) -> torch.Tensor:
    """valid: Transformers' attention_mask, [B, L]."""
    return (key <= query) & valid[:, None, None, :]


def packed(
    query: torch.Tensor, key: torch.Tensor, case: Case, numbers: torch.Tensor
) -> torch.Tensor:
    """numbers: of the sequence at each position, [B, L]."""
    return (key <= query) & (numbers[:, None, :, None] == numbers[:, None, None, :])


def decode(
    query: torch.Tensor, key: torch.Tensor, case: Case, filled: torch.Tensor
) -> torch.Tensor:
    """filled: how many keys the cache held before this step; only the device knows."""
    return key <= query + filled


MASKS: Mapping[str, Callable[..., torch.Tensor] | None] = {
    "none": None,
    **{made.__name__: made for made in (causal, window, chunk, padding, packed, decode)},
}
"""From positions, query [1, 1, S, 1] and key [1, 1, 1, L], to what is seen."""


def mask_of(
    case: Case, q: torch.Tensor, k: torch.Tensor, *operands: torch.Tensor
) -> torch.Tensor | None:
    """[B, 1, S, L], True where a query sees a key; None where it sees them all."""
    shows = MASKS[case.mask]
    if shows is None:
        return None
    query = torch.arange(q.shape[2], device=q.device)[None, None, :, None]
    key = torch.arange(k.shape[2], device=q.device)[None, None, None, :]
    return shows(query, key, case, *operands).expand(q.shape[0], -1, -1, -1)


def repeat_kv(x: torch.Tensor, groups: int) -> torch.Tensor:
    """As Transformers does."""
    if groups == 1:
        return x
    batch, heads, length, width = x.shape
    x = x[:, :, None].expand(batch, heads, groups, length, width)
    return x.reshape(batch, heads * groups, length, width)


def program(case: Case) -> Program:
    """The attention of that case, a function of its `inputs`."""

    def attend(
        q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *operands: torch.Tensor
    ) -> torch.Tensor:
        mask = mask_of(case, q, k, *operands)
        k, v = repeat_kv(k, case.groups), repeat_kv(v, case.groups)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=case.scale)

    def attend_capped(
        q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *operands: torch.Tensor
    ) -> torch.Tensor:
        scores = scores_of(case, q, k)
        scores = torch.tanh(scores / case.cap) * case.cap
        scores = scores + added(mask_of(case, q, k, *operands), scores.dtype)
        shares = F.softmax(scores, dim=-1, dtype=torch.float32).to(q.dtype)
        return shares @ repeat_kv(v, case.groups)

    def attend_with_sinks(
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        sinks: torch.Tensor,
        *operands: torch.Tensor,
    ) -> torch.Tensor:
        scores = scores_of(case, q, k) + added(mask_of(case, q, k, *operands), q.dtype)
        column = sinks.reshape(1, -1, 1, 1).expand(q.shape[0], -1, q.shape[2], -1)
        scores = torch.cat([scores, column], dim=-1)
        scores = scores - scores.max(dim=-1, keepdim=True).values
        shares = F.softmax(scores, dim=-1, dtype=scores.dtype)[..., :-1]
        return shares @ repeat_kv(v, case.groups)

    if case.cap:
        return attend_capped
    return attend_with_sinks if case.sinks else attend


def scores_of(case: Case, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """[B, H, S, L]"""
    return q @ repeat_kv(k, case.groups).transpose(2, 3) * case.scale


def added(mask: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor:
    """The mask as eager attention takes it: 0 where a query sees a key, else the least number."""
    assert mask is not None
    return torch.where(mask, 0.0, torch.finfo(dtype).min).to(dtype)
