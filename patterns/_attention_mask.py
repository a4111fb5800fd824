"""What is done with a mask whose meaning is known: the op's arguments without it, or beside it.

On a CPU, where no kernel runs, the op itself is the better code for a causal mask, a window or a
chunk, see _attention_on_cpu; in decoding the original call is, on unexpanded keys and values.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F

from tile_backend.lowering.fusion import MaskFacts, MaskRule, Respelling
from tile_backend.patterns import _attention_on_cpu as on_cpu
from tile_backend.patterns._attention_blocks import blocks
from tile_backend.patterns._attention_math import MASKED_SDPA, SDPA


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
    form = form_without_mask(arguments, facts)
    return {**arguments, "mask": None, **facts.arguments, "fill": fill, "form": form}


def form_without_mask(arguments: Mapping[str, Any], facts: MaskFacts) -> str:
    """See _attention_math: that there was a mask, and what it made of a hidden score."""
    form: str = MASKED_SDPA if arguments["form"] == SDPA else arguments["form"]
    low = arguments["fill"] if facts.hides_with is None else facts.hides_with
    return form if low is None or not math.isfinite(low) else f"{form} {low!r}"


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
    """The op where flash attention on a CPU does without the mask, at once or in blocks.

    masked: the arguments with the mask.
    """
    if on_cpu.possible(arguments):
        if on_cpu.whole(arguments):
            return Respelling(gain_of(arguments))
        if blocks(arguments) is not None:
            return Respelling("each block of queries reads only the keys that it sees")
    if is_decode(masked):
        return Respelling("K and V are read unexpanded", unexpanded)
    return None


def gain_of(arguments: Mapping[str, Any]) -> str:
    """What plain SDPA saves here: hidden keys only where it hides some, K and V where shared."""
    found = ["SDPA skips what it hides" if arguments["is_causal"] else "SDPA reads no mask"]
    heads = [arguments[name].shape[1] for name in ("q", "k")]
    if all(isinstance(number, int) for number in heads) and heads[0] != heads[1]:
        found.append("takes K and V unexpanded")
    return " and ".join(found)


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
