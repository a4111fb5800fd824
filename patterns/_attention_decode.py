"""Decoding: attention of few queries over many keys, in two steps.

One block for each head of k and v would leave most of a GPU idle. So the keys are divided among
several blocks (`attention_split`), and their results are put together (`attention_join`), as Dao et
al. do in Flash-Decoding.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from tile_backend.lowering.fusion import Run, hint
from tile_backend.patterns import _attention_math as math_of

MOST_QUERIES = 16
"""Per head. With more, tiles of queries fill a GPU by themselves."""
FEWEST_KEYS = 256
"""Of a part: what it adds, a result and its place in the sum, is small beside reading them."""
ROUNDS = 2
"""How often the parts fill the GPU: two blocks at a time share a multiprocessor."""


def in_two_steps(run: Run, arguments: Mapping[str, Any], multiprocessors: int) -> Any:
    """`steps` of `attention`, see fusion.Op."""
    splits = number_of_splits(arguments, multiprocessors) if is_decode(arguments) else 1
    if splits == 1:
        return None
    given = {n: a for n, a in arguments.items() if n not in ("sinks", "fill")}
    parts, lse = run("attention_split", **given, splits=splits)
    return run(
        "attention_join",
        parts=parts,
        lse=lse,
        sinks=arguments["sinks"],
        dtype=arguments["q"].dtype,
    )


def is_decode(arguments: Mapping[str, Any]) -> bool:
    """Few queries, and nothing that only the whole op knows.

    A number of queries that is not fixed may become large. A mask that is added may be so low that
    the log-sum-exp of a part, float32, says no more how many keys it has seen.
    """
    mask, length = arguments["mask"], arguments["q"].shape[2]
    return (
        isinstance(length, int)
        and 0 < length <= MOST_QUERIES
        and arguments["fill"] is None
        and arguments["segments"] is None
        and (mask is None or mask.dtype is torch.bool)
    )


def number_of_splits(arguments: Mapping[str, Any], multiprocessors: int) -> int:
    """As many as fill the GPU ROUNDS times, and as leave each part FEWEST_KEYS of those seen."""
    k = arguments["k"]
    blocks = hint(k.shape[0]) * hint(k.shape[1])
    fill = -(-ROUNDS * multiprocessors // max(blocks, 1))
    return max(1, min(fill, keys_seen(arguments) // FEWEST_KEYS))


def keys_seen(arguments: Mapping[str, Any]) -> int:
    """How many there are for all queries together, as far as numbers say."""
    length = arguments["q"].shape[2]
    bounds = [hint(arguments["k"].shape[2])]
    if arguments["is_causal"] and arguments["offset"] is None:
        bounds.append(arguments["start"] + length)
    if arguments["is_causal"] and arguments["window"] is not None:
        bounds.append(arguments["window"] + length)
    if arguments["chunk"] is not None:
        bounds.append(arguments["chunk"] + length)
    return max(0, min(bounds))


# --- the two ops ---------------------------------------------------------------------------------


def attention_split(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, splits: int, **others: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """`attention` over each of `splits` parts of the keys.

    Results [splits, B, H, S, E] and their log-sum-exp [splits, B, H, S], both float32, the results
    as precise as products of the inputs' dtype are. Which keys a part has is the kernel's choice;
    here the first has all, and the others none.
    """
    first = math_of.written_out(q, k, v, **others).float()
    lse = math_of.log_sum_exp(q, k, **others)
    nothing = first.new_zeros((splits - 1, *first.shape))
    none = lse.new_full((splits - 1, *lse.shape), -math.inf)
    return torch.cat([first[None], nothing]), torch.cat([lse[None], none])


def outputs_of_split(
    q: torch.Tensor, v: torch.Tensor, splits: int, **_: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    shape = (splits, *q.shape[:3])
    return (
        q.new_empty((*shape, v.shape[-1]), dtype=torch.float32),
        q.new_empty(shape, dtype=torch.float32),
    )


def attention_join(
    parts: torch.Tensor, lse: torch.Tensor, sinks: torch.Tensor | None, dtype: torch.dtype
) -> torch.Tensor:
    """The results of all parts as one, in that dtype: sum(part * exp(lse - total lse)).

    parts [P, B, H, S, E], lse [P, B, H, S], sinks [H]. A query that saw nothing gives 0.
    """
    whole = lse
    if sinks is not None:
        whole = torch.cat([lse, sinks.float().reshape(1, 1, -1, 1).expand(1, *lse.shape[1:])])
    total = torch.logsumexp(whole, dim=0)
    shares = torch.exp(lse - total).masked_fill((total == -math.inf), 0.0)
    return (parts * shares[..., None]).sum(0).to(dtype)


def outputs_of_join(parts: torch.Tensor, dtype: torch.dtype, **_: Any) -> torch.Tensor:
    _splits, batch, heads, length, width = parts.shape
    return parts.new_empty((batch, length, heads, width), dtype=dtype).transpose(1, 2)


def sizes_of_join(arguments: Mapping[str, Any]) -> dict[str, Any]:
    splits, *queries, _width = arguments["parts"].shape
    return {"splits": splits, "rows": math.prod(queries)}
