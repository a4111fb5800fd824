"""Softmax attention (Vaswani et al., arXiv:1706.03762) with grouped key and value heads.

What the ops mean is said in _attention_ops, how a model may write attention in _attention_forms.
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
    Reason,
    ReasonKind,
    Scalar,
    Shape,
    Spelling,
    Tensor,
)
from tile_backend.patterns import _attention_forms as forms
from tile_backend.patterns._attention_ops import OPS


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


def plain(q: Any, k: Any, v: Any, scale: float, is_causal: bool, **_: Any) -> Any:
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
    ops=OPS,
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
