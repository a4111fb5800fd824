"""A language model's last linear layer and its cross-entropy, without the logits of all tokens.

hidden -> logits (scaled, bounded) -> float32 -> cross-entropy, as Transformers' ForCausalLMLoss and
hand-written training loops spell it. Fires where nothing else reads the logits; where the model
returns them as well, with `tilegym.drop_logits`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch.nn.functional as F

from tile_backend.lowering.fusion import (
    Fusion,
    Reason,
    ReasonKind,
    Scalar,
    Shape,
    Spelling,
    Tensor,
)
from tile_backend.patterns import _cross_entropy_forms as forms
from tile_backend.patterns._linear_cross_entropy_ops import OPS

LOSS = ("ignore_index", "label_smoothing", "reduction")


def spelled(wide: str, bend: str = "", layer: Callable[..., Any] = F.linear) -> Callable[..., Any]:
    """wide: when the logits become float32: "first", "last" or "never".

    bend: what is done to them: nothing, or "scale" or "softcap", a parameter of the function.
    """
    names = ("hidden", "weight", "bias", "labels", *([bend] if bend else []), *LOSS)

    def linear_loss(**given: Any) -> Any:
        logits = layer(given["hidden"], given["weight"], given["bias"])
        logits = logits.float() if wide == "first" else logits
        if bend == "scale":
            logits = logits * given["scale"]
        elif bend:
            logits = forms.capped(logits, given["softcap"])
        logits = logits.float() if wide == "last" else logits
        return forms.loss(logits, given["labels"], *(given[name] for name in LOSS))

    parameters = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in names]
    linear_loss.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return linear_loss


def product(hidden: Any, weight: Any, bias: Any) -> Any:
    """F.linear by hand; a sum with a bias would round twice."""
    return hidden @ weight.transpose(-1, -2) if bias is None else F.linear(hidden, weight, bias)


def spellings() -> list[Spelling]:
    found = []
    narrow: dict[str, Any] = {"dtype": lambda given: given["hidden"].dtype}
    for bend, name in (("", "linear"), ("scale", "scaled"), ("softcap", "capped")):
        rounding: dict[str, Any] = {"rounding": "every_op"} if bend else {}
        found.append(Spelling(spelled("last", bend), attributes=rounding, name=name))
        if bend:
            found.append(Spelling(spelled("first", bend), name=f"{name}_in_float32"))
        found.append(
            Spelling(
                spelled("never", bend),
                attributes={**narrow, **rounding},
                name=f"{name}_in_low_precision",
            )
        )
    found.append(Spelling(spelled("last", "", product), name="product"))
    return found


def softmax_over_tokens(hidden: Any, weight: Any, labels: Any) -> Any:
    """the log-softmax before the loss is over the tokens, not over the classes."""
    return forms.over_tokens(F.linear(hidden, weight), labels)


def one_loss(arguments: Mapping[str, Any]) -> Reason | None:
    """A loss per token has no gradient before the backward says what each is multiplied with."""
    layer = [arguments[name] for name in ("hidden", "weight", "bias")]
    if arguments["reduction"] != "none" or not any(
        x is not None and x.requires_grad for x in layer
    ):
        return None
    return Reason(
        ReasonKind.SEMANTICS_UNSUPPORTED,
        "a loss for each token is trained through, and its gradient would need all logits again",
        fix='use reduction="sum" or "mean"',
    )


FUSION = Fusion(
    name="linear_cross_entropy",
    summary="last linear layer and cross-entropy, the logits of a few tokens at a time",
    ops=OPS,
    holes={
        "hidden": Tensor("... D"),
        "weight": Tensor("E D"),
        "bias": Tensor("E", optional=True),
        "scale": Scalar(),
        "softcap": Scalar(),
        **forms.HOLES,
    },
    spellings=tuple(spellings()),
    near_misses=(softmax_over_tokens,),
    anchors=("cross_entropy/linear", "cross_entropy/cast/linear"),
    limits=(one_loss,),
    drops="logits",
    drop_option="drop_logits",
    priority=40,
    bench=(
        Shape(
            "llama-3-8b, 8192 tokens",
            {"hidden": (8192, 4096), "weight": (128256, 4096), "labels": (8192,)},
        ),
    ),
)
