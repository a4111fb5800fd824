"""Softmax attention (Vaswani et al., arXiv:1706.03762) with grouped key and value heads.

What the ops mean is said in _attention_ops, how a model may write attention in _attention_forms.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

from tile_backend.lowering.fusion import (
    Fusion,
    Reason,
    ReasonKind,
    Scalar,
    Shape,
    Spelling,
    Tensor,
    hint,
)
from tile_backend.patterns import _attention_forms as forms
from tile_backend.patterns._attention_mask import RULE
from tile_backend.patterns._attention_math import SDPA
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
                attributes={**fixed, "fill": softmax_of_added, "form": f"added {where}"},
                name=f"eager_scaled_{where}",
            ),
            Spelling(
                forms.eager_filled(where),
                attributes={**fixed, "form": f"filled {where}"},
                transform=forms.inverted,
                name=f"eager_scaled_{where}_masked_fill",
            ),
            Spelling(
                forms.eager_selected(where),
                attributes={**fixed, "form": f"filled {where}"},
                transform=forms.renamed,
                name=f"eager_scaled_{where}_where",
            ),
        ]
    return found


def bounded_or_with_sinks() -> list[Spelling]:
    found = []
    for where in ("scores", "q"):
        found += [
            Spelling(
                forms.soft_capped(where),
                attributes={"fill": softmax_of_added, "form": f"added {where}"},
                name=f"soft_capped_scaled_{where}",
            ),
            Spelling(
                forms.soft_capped_filled(where),
                attributes={"form": f"filled {where}"},
                transform=forms.inverted,
                name=f"soft_capped_scaled_{where}_masked_fill",
            ),
        ]
        found += [
            Spelling(
                forms.with_sinks(where, shifted),
                attributes={
                    "fill": softmax_of_added,
                    "form": f"added {where}" + " shifted" * shifted,
                },
                name=f"sinks_scaled_{where}" + "_shifted" * shifted,
            )
            for shifted in (True, False)
        ]
    return found


def declined() -> list[Spelling]:
    dropout = unsupported("dropout", "set attention_dropout to 0 or call model.eval()")
    return [
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


def scale_of_call(arguments: Mapping[str, Any]) -> Reason | None:
    """A call of SDPA gives what torch's kernel makes of its scale, which is not always the product.

    With `is_causal` the kernel for a CPU multiplies its -inf by the scale, and where the scale is
    NaN gives 0 (torch 2.13). A mask tensor it adds to the product.
    """
    scale, causal = arguments["scale"], bool(arguments["is_causal"])
    if arguments["form"] != SDPA or (math.isfinite(scale) and (scale > 0 or not causal)):
        return None
    call = "scaled_dot_product_attention" + " with is_causal" * causal
    return Reason(
        ReasonKind.SEMANTICS_UNSUPPORTED,
        f"what {call} gives for a scale of {scale} is up to the kernel that torch chooses",
        fix="use a finite scale above 0",
    )


def describe(arguments: Mapping[str, Any]) -> dict[str, object]:
    """mask: none, causal or tensor; kv_groups: query heads per key head."""
    heads, of_keys = (hint(arguments[name].shape[1]) for name in ("q", "k"))
    mask = "tensor" if arguments["mask"] is not None else "none"
    return {
        "mask": "causal" if arguments["is_causal"] else mask,
        "kv_groups": heads // of_keys if of_keys else 1,
        "scale": arguments["scale"],
        "softcap": arguments["softcap"],
        "sinks": arguments["sinks"] is not None,
        "dropout": 0.0,
    }


FUSION = Fusion(
    name="attention",
    summary="softmax attention: SDPA or written out, any mask, soft cap, sinks, GQA unexpanded",
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
        "softcap": Scalar(),
        "fill": Scalar(),
        "dropout": Scalar(),
    },
    spellings=tuple(
        variant
        for spelling in itertools.chain(supported(), bounded_or_with_sinks(), declined())
        for variant in (spelling, repeated(spelling))
    )
    + tuple(flattened(spelling) for spelling in supported() if not spelling.grouped),
    near_misses=(forms.softmax_over_queries, forms.no_softmax),
    left={
        "flex_attention": Reason(
            ReasonKind.SEMANTICS_UNSUPPORTED,
            "flex_attention is left to Inductor, which compiles it with its own functions of scores"
            " and masks",
            fix="use attn_implementation='sdpa' where the mask is causal, a window, a chunk or"
            " packed sequences",
        )
    },
    anchors=("sdpa", "matmul/softmax", "matmul/cast/softmax"),
    limits=(scale_of_call,),
    priority=30,
    mask=RULE,
    describe=describe,
    bench=(
        Shape(
            "llama-3-8b prefill",
            {"q": (1, 32, 8192, 128), "k": (1, 8, 8192, 128), "v": (1, 8, 8192, 128)},
        ),
    ),
)
