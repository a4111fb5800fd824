"""What is done with a mask whose meaning is known: the op's arguments without it, or beside it.

Where no kernel runs, a causal mask becomes `is_causal` of scaled_dot_product_attention, and a
window or a chunk several calls of it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F

from tile_backend.lowering.fusion import MaskFacts, MaskRule, Respelling
from tile_backend.patterns._attention_blocks import in_blocks


def sizes(arguments: Mapping[str, Any]) -> tuple[Any, Any]:
    """Numbers of queries and of keys."""
    return arguments["q"].shape[2], arguments["k"].shape[2]


def with_facts(arguments: Mapping[str, Any], facts: MaskFacts) -> Mapping[str, Any]:
    """No mask where the facts say all of it; else the mask and what lets a kernel skip keys."""
    if arguments["is_causal"]:
        return arguments
    if not facts.whole:
        # A finite number that is added leaves a query without keys the mean of all values, and
        # facts beside the mask would take values away from it.
        exact = facts.hides_with in (None, -math.inf)
        return {**arguments, **facts.arguments} if facts.arguments and exact else arguments
    if not (hides_well(arguments, facts) and (surely_sees(arguments, facts) or is_known(facts))):
        return arguments
    fill = None if surely_sees(arguments, facts) else fill_without_mask(arguments, facts)
    if fill is not None and facts.hides_with is not None and is_differentiated(arguments):
        return arguments
    return {**arguments, "mask": None, **facts.arguments, "fill": fill}


def is_differentiated(arguments: Mapping[str, Any]) -> bool:
    """Whether scores have a gradient. A mask that is added passes it on to q and k also where it
    hides every key of a query; a `fill`, which takes the place of a score, would not.
    """
    return bool(arguments["q"].requires_grad or arguments["k"].requires_grad)


def surely_sees(arguments: Mapping[str, Any], facts: MaskFacts) -> bool:
    """Every query sees a key or a sink: it does not matter what one without them gives."""
    return facts.never_empty or arguments["sinks"] is not None


def is_known(facts: MaskFacts) -> bool:
    return facts.hides_with is None or not math.isnan(facts.hides_with)


def fill_without_mask(arguments: Mapping[str, Any], facts: MaskFacts) -> float | None:
    """What hidden scores hold. A mask that is added says so itself; SDPA's -inf is None."""
    fill: float | None = arguments["fill"]
    if facts.hides_with is None:
        return fill
    return None if fill is None and facts.hides_with == -math.inf else facts.hides_with


def hides_well(arguments: Mapping[str, Any], facts: MaskFacts) -> bool:
    """A hidden score has no weight beside any other. Of numbers that are added it is known."""
    fill = arguments["fill"]
    if fill is None or facts.hides_with is not None:
        return True
    return bool(fill <= torch.finfo(torch.float32).min or fill == lowest_score(arguments))


def lowest_score(arguments: Mapping[str, Any]) -> float | None:
    """What hides a score of the operands' dtype; float16 has no number that is low enough."""
    dtype = arguments["q"].dtype
    return torch.finfo(dtype).min if dtype is not torch.float16 else None


def respelled(arguments: Mapping[str, Any], masked: Mapping[str, Any]) -> Respelling | None:
    """SDPA where nothing but `is_causal` is left of the mask, or a window or chunk in blocks.

    masked: the arguments with the mask.
    """
    others = ("mask", "padding", "segments", "offset", "sinks", "softcap", "fill")
    if all(arguments[name] is None for name in others) and arguments["start"] == 0:
        if arguments["window"] is None and arguments["chunk"] is None:
            gain = "SDPA skips what it hides and takes K and V unexpanded"
            return with_nan(plain, gain, masked)
        if (blocks := in_blocks(arguments)) is not None:
            gain = "each block of queries reads only the keys that it sees"
            return with_nan(blocks, gain, masked)
    if is_decode(masked):
        return Respelling(unexpanded, "K and V are read unexpanded", masked=True)
    return None


def with_nan(
    function: Callable[..., Any], gain: str, masked: Mapping[str, Any]
) -> Respelling | None:
    """The respelling, with NaN where a model's mask kept it: see `kept`."""
    q, k = masked["q"], masked["k"]
    if masked["mask"] is None:
        return Respelling(function, gain)  # the model's own call had no other NaN
    if not isinstance(q.shape[1], int) or not isinstance(k.shape[1], int):
        return None
    settings = {
        "groups": q.shape[1] // k.shape[1],
        "dtype": q.dtype,
        "hides_nan": masked["mask"].dtype is torch.bool and masked["fill"] is not None,
    }
    return Respelling(functools.partial(kept, function, **settings), gain)


def kept(
    function: Callable[..., Any],
    q: Any,
    k: Any,
    v: Any,
    *,
    groups: int,
    dtype: torch.dtype,
    hides_nan: bool,
    **others: Any,
) -> Any:
    """What the function gives, and NaN where an operand is NaN that a mask kept.

    With `is_causal` PyTorch's kernel for a CPU gives zeros for a query with NaN, and does not read
    what it skips. A mask is added to all scores: NaN at a key that it hides stays NaN for every
    query, and so does NaN among the values there, times a weight of 0. Where scores are filled
    (hides_nan), a hidden one is lost. Else a factor of 1 and a term of -0.0 change no bit. NaN in a
    factor is in the gradients as well; those of the values do not depend on them.
    """

    def for_queries(of_keys: Any) -> Any:
        return of_keys if groups == 1 else of_keys.repeat_interleave(groups, 1)

    lost = q.isnan().any(-1, keepdim=True)
    if not hides_nan:
        lost = lost | for_queries(k.isnan().any(-1, keepdim=True).any(-2, keepdim=True))
    factor = torch.where(lost, torch.nan, 1.0).to(dtype)
    term = torch.where(for_queries(v.isnan().any(-2, keepdim=True)), torch.nan, -0.0).to(dtype)
    return function(q=q, k=k, v=v, **others) * factor + term


MOST_QUERIES = 16
"""On a CPU one query is twice as fast so; with 512 it made no difference. Between, not measured."""


def is_decode(masked: Mapping[str, Any]) -> bool:
    """Few queries, a mask, and heads that share K and V, as SDPA itself would take them.

    In float32: with bfloat16 it makes no difference. Not in training, where the sums over a group
    are made in another order.
    """
    q, k, v, mask = (masked[name] for name in ("q", "k", "v", "mask"))
    return (
        isinstance(q.shape[2], int)
        and q.shape[2] <= MOST_QUERIES
        and q.shape[1] != k.shape[1]
        and q.dtype is torch.float32
        and mask is not None
        and mask.dim() >= 2
        and all(masked[name] is None for name in ("fill", "sinks", "softcap"))
        and not any(tensor.requires_grad for tensor in (q, k, v, mask))
    )


def unexpanded(q: Any, k: Any, v: Any, mask: Any, scale: float, **_: Any) -> Any:
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale, enable_gqa=True)


def plain(q: Any, k: Any, v: Any, scale: float, is_causal: bool, **_: Any) -> Any:
    return F.scaled_dot_product_attention(
        q, k, v, is_causal=is_causal, scale=scale, enable_gqa=True
    )


RULE = MaskRule(
    holes={
        "mask": False,
        "masked": True,
        "visible": False,
        "mask3": False,
        "masked3": True,
        "visible3": False,
    },
    sizes=sizes,
    apply=with_facts,
    respell=respelled,
)
