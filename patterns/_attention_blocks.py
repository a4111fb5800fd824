"""Causal attention within a window or a chunk as one SDPA per block of queries.

Each block reads only the keys that it can see, so that neither time nor memory grow with the square
of the length. For sizes that are numbers: a block is a slice.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F

SMALLEST_BLOCK = 128
"""Queries per block: the smallest that was tried on a CPU, and the fastest there."""
MOST_BLOCKS = 32
"""Each is one more operation to compile."""


def in_blocks(arguments: Mapping[str, Any]) -> Callable[..., Any] | None:
    """The function, or None where it would not be better: few queries, symbolic sizes."""
    length, keys = arguments["q"].shape[2], arguments["k"].shape[2]
    window, chunk = arguments["window"], arguments["chunk"]
    if not (isinstance(length, int) and length == keys and arguments["is_causal"]):
        return None
    if (window is None) == (chunk is None) or length < 2 * SMALLEST_BLOCK:
        return None
    if chunk is not None:
        if -(-length // chunk) > MOST_BLOCKS:
            return None
        return functools.partial(chunked, length=length, chunk=chunk)
    least = max(SMALLEST_BLOCK, window // 4, -(-length // MOST_BLOCKS))
    size = -(-least // SMALLEST_BLOCK) * SMALLEST_BLOCK
    return functools.partial(windowed, length=length, window=window, size=size)


def attend(q: Any, k: Any, v: Any, scale: float, **mask: Any) -> Any:
    return F.scaled_dot_product_attention(q, k, v, scale=scale, enable_gqa=True, **mask)


def chunked(q: Any, k: Any, v: Any, scale: float, *, length: int, chunk: int, **_: Any) -> Any:
    """Every chunk is plain causal attention of its own."""
    parts = []
    for begin in range(0, length, chunk):
        own = slice(begin, min(begin + chunk, length))
        q_own, k_own, v_own = (x[:, :, own] for x in (q, k, v))
        parts.append(attend(q_own, k_own, v_own, scale, is_causal=True))
    return torch.cat(parts, dim=2)


def windowed(
    q: Any, k: Any, v: Any, scale: float, *, length: int, window: int, size: int, **_: Any
) -> Any:
    """Blocks of `size` queries; the first keys are plain causal attention."""
    parts = []
    for begin in range(0, length, size):
        end, first = min(begin + size, length), max(0, begin - window + 1)
        q_own, k_own, v_own = q[:, :, begin:end], k[:, :, first:end], v[:, :, first:end]
        if end <= window:
            mask = {"is_causal": True} if begin == 0 else {"attn_mask": band(q, begin, end, first)}
        else:
            mask = {"attn_mask": band(q, begin, end, first, window)}
        parts.append(attend(q_own, k_own, v_own, scale, **mask))
    return torch.cat(parts, dim=2)


def band(q: Any, begin: int, end: int, first: int, window: int | None = None) -> Any:
    """Which of the keys [first, end) the queries [begin, end) see. Made from q: it may be a proxy.

    Row i and column j are query begin + i and key first + j.
    """
    seen = q.new_ones((end - begin, end - first), dtype=torch.bool).tril(begin - first)
    return seen if window is None else seen.triu(begin - first - window + 1)
