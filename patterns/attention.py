"""Softmax attention (Vaswani et al., arXiv:1706.03762) with grouped key and value heads.

The mask is one of: none, causal (torch's top-left alignment), or a tensor. A boolean tensor says
where to attend, a float tensor is added to the scores. Without `fill` the softmax is SDPA's: hidden
scores are -inf, and a row that attends nowhere gives 0. With it the softmax is torch.softmax, which
gives NaN for a row of -inf; a boolean mask puts `fill` where it hides (masked_fill, where).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F

from tile_backend.lowering.fusion import (
    Fusion,
    MaskRule,
    Op,
    Reason,
    ReasonKind,
    Scalar,
    Shape,
    Spelling,
    Tensor,
)
from tile_backend.patterns import _attention_forms as forms


def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: torch.Tensor | None,
    scale: float,
    is_causal: bool = False,
    fill: float | None = None,
) -> torch.Tensor:
    """softmax(q @ k^T * scale, masked) @ v.

    q [B, H, S, D], k [B, Hkv, L, D], v [B, Hkv, L, E], H a multiple of Hkv, mask broadcasts to
    [B, H, S, L]. Result [B, H, S, E] in q's dtype.
    """
    if mask is not None and mask.dim() < 2:  # one row for every query; SDPA takes no such mask
        mask = mask.reshape(1, -1)
    grouped = bool(q.shape[1] != k.shape[1])
    if fill is None or (mask is not None and mask.dtype != torch.bool):
        result = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=is_causal, scale=scale, enable_gqa=grouped
        )
        if fill is None or mask is None:
            return result
        return result.masked_fill((mask == -math.inf).all(-1, keepdim=True), math.nan)
    if grouped:
        k = k.repeat_interleave(q.shape[1] // k.shape[1], 1)
        v = v.repeat_interleave(q.shape[1] // v.shape[1], 1)
    scores = (q.float() @ k.float().transpose(-1, -2)) * scale
    assert mask is not None, "fill needs a mask"
    weights = F.softmax(scores.masked_fill(~mask, fill), dim=-1)
    return (weights @ v.float()).to(q.dtype)


def outputs(q: torch.Tensor, v: torch.Tensor, **_: Any) -> torch.Tensor:
    """Laid out as [B, S, H, E], which the output projection reads without a copy."""
    batch, heads, length, _width = q.shape
    return q.new_empty((batch, length, heads, v.shape[-1])).transpose(1, 2)


def unsupported(what: str, fix: str = "") -> Reason:
    return Reason(
        ReasonKind.SEMANTICS_UNSUPPORTED, f"attention with {what} has no kernel yet", fix=fix
    )


def softmax_of_added(arguments: Mapping[str, Any]) -> float | None:
    """`fill` where a mask is added by hand: any value says that the softmax is torch.softmax."""
    return None if arguments.get("mask") is None else -math.inf


def supported() -> list[Spelling]:
    found = [
        Spelling(forms.sdpa_masked),
        Spelling(forms.sdpa_causal, attributes={"is_causal": True}),
        Spelling(forms.sdpa_masked_gqa, grouped=True),
        Spelling(forms.sdpa_causal_gqa, attributes={"is_causal": True}, grouped=True),
    ]
    for where in ("scores", "q", "k", "none"):
        fixed: dict[str, Any] = {"scale": 1.0} if where == "none" else {}
        found += [
            Spelling(
                forms.eager(where),
                attributes={**fixed, "fill": softmax_of_added},
                name=f"eager_scaled_{where}",
            ),
            Spelling(
                forms.eager_filled(where),
                attributes=fixed,
                transform=forms.inverted,
                name=f"eager_scaled_{where}_masked_fill",
            ),
            Spelling(
                forms.eager_selected(where),
                attributes=fixed,
                transform=forms.renamed,
                name=f"eager_scaled_{where}_where",
            ),
        ]
    return found


def declined() -> list[Spelling]:
    dropout = unsupported("dropout", "set attention_dropout to 0 or call model.eval()")
    return [
        Spelling(forms.soft_capped, declined=unsupported("a tanh soft cap on the scores")),
        Spelling(forms.with_sinks, declined=unsupported("attention sinks")),
        Spelling(forms.with_dropout, declined=dropout),
        Spelling(forms.sdpa_dropout, declined=dropout),
        Spelling(forms.sdpa_causal_dropout, declined=dropout),
    ]


def repeated(spelling: Spelling) -> Spelling:
    return Spelling(
        forms.expanded(spelling.function),
        grouped=True,
        attributes=spelling.attributes,
        declined=spelling.declined,
        transform=spelling.transform,
        name=f"{spelling.title}_repeat_kv",
    )


def flattened(spelling: Spelling) -> Spelling:
    return Spelling(
        forms.flat(spelling.function),
        attributes=spelling.attributes,
        transform=forms.one_batch(spelling.transform),
        finish=forms.without_batch,
        name=f"{spelling.title}_flat",
    )


def sizes(arguments: Mapping[str, Any]) -> tuple[Any, Any]:
    """Numbers of queries and of keys."""
    return arguments["q"].shape[2], arguments["k"].shape[2]


def without_mask(arguments: Mapping[str, Any], meaning: Any) -> Mapping[str, Any]:
    """No tensor where every query sees every key, or those up to its own.

    Each query then sees a key, so it does not matter what a softmax does to one that sees none.
    """
    fill = arguments["fill"]
    lowest = (
        fill is None or fill <= torch.finfo(torch.float32).min or fill == lowest_score(arguments)
    )
    if arguments["is_causal"] or not lowest or not (meaning.is_all or meaning.is_causal):
        return arguments
    return {**arguments, "mask": None, "is_causal": meaning.is_causal, "fill": None}


def lowest_score(arguments: Mapping[str, Any]) -> float | None:
    """What hides a score of the operands' dtype; float16 has no number that is low enough."""
    dtype = arguments["q"].dtype
    return torch.finfo(dtype).min if dtype is not torch.float16 else None


def plain(q: Any, k: Any, v: Any, mask: None, scale: float, is_causal: bool, fill: None) -> Any:
    """For arguments that `without_mask` has changed."""
    return F.scaled_dot_product_attention(
        q, k, v, is_causal=is_causal, scale=scale, enable_gqa=True
    )


def describe(arguments: Mapping[str, Any]) -> dict[str, object]:
    """mask: none, causal or tensor; kv_groups: query heads per key head."""
    q, k = arguments["q"], arguments["k"]
    mask = "tensor" if arguments["mask"] is not None else "none"
    return {
        "mask": "causal" if arguments["is_causal"] else mask,
        "kv_groups": int(q.shape[1]) // int(k.shape[1]),
        "softcap": None,
        "sinks": False,
        "dropout": 0.0,
    }


FUSION = Fusion(
    name="attention",
    summary="softmax attention: SDPA or written out, causal or with a mask tensor, GQA unexpanded",
    ops=(
        Op(
            "attention",
            "(Tensor q, Tensor k, Tensor v, Tensor? mask, float scale, bool is_causal=False,"
            " float? fill=None) -> Tensor",
            attention,
            outputs,
        ),
    ),
    holes={
        "q": Tensor("B H S D"),
        "k": Tensor("B K L D"),
        "v": Tensor("B K L E"),
        "q3": Tensor("N S D"),
        "k3": Tensor("N L D"),
        "v3": Tensor("N L E"),
        "mask3": Tensor("1 S L", optional=True, dtype="any"),
        "masked3": Tensor("1 S L", dtype="bool"),
        "visible3": Tensor("1 S L", dtype="bool"),
        "mask": Tensor("B 1 S L", optional=True, dtype="any"),
        "masked": Tensor("B 1 S L", dtype="bool"),
        "visible": Tensor("B 1 S L", dtype="bool"),
        "sinks": Tensor("H"),
        "scale": Scalar(),
        "cap": Scalar(),
        "fill": Scalar(),
        "dropout": Scalar(),
    },
    spellings=tuple(
        variant
        for spelling in itertools.chain(supported(), declined())
        for variant in (spelling, repeated(spelling))
    )
    + tuple(flattened(spelling) for spelling in supported() if not spelling.grouped),
    near_misses=(forms.softmax_over_queries, forms.no_softmax),
    anchors=("sdpa", "matmul/softmax", "matmul/cast/softmax"),
    priority=30,
    mask=MaskRule(
        holes={
            "mask": False,
            "masked": True,
            "visible": False,
            "mask3": False,
            "masked3": True,
            "visible3": False,
        },
        sizes=sizes,
        apply=without_mask,
        plain=plain,
        gain="SDPA skips what it hides and takes K and V unexpanded",
    ),
    describe=describe,
    estimate=("kernel", "estimated: K and V are read unexpanded and no score matrix is written"),
    bench=(
        Shape(
            "llama-3-8b prefill",
            {"q": (1, 32, 8192, 128), "k": (1, 8, 8192, 128), "v": (1, 8, 8192, 128)},
        ),
    ),
)
