"""Cross-entropy of logits that the model computes anyway: torch's cross_entropy, fused.

The logits are read as they are: float32 copies of them are never made.
"""

from __future__ import annotations

from typing import Any

from tile_backend.lowering.fusion import Fusion, Shape, Spelling, Tensor
from tile_backend.patterns import _cross_entropy_forms as forms
from tile_backend.patterns._cross_entropy_ops import OPS


def in_float32(
    logits: Any, labels: Any, ignore_index: Any, label_smoothing: Any, reduction: Any
) -> Any:
    return forms.loss(logits.float(), labels, ignore_index, label_smoothing, reduction)


def as_it_is(
    logits: Any, labels: Any, ignore_index: Any, label_smoothing: Any, reduction: Any
) -> Any:
    return forms.loss(logits, labels, ignore_index, label_smoothing, reduction)


def weight_per_class(
    logits: Any,
    labels: Any,
    class_weight: Any,
    ignore_index: Any,
    label_smoothing: Any,
    reduction: Any,
) -> Any:
    return forms.loss(logits, labels, ignore_index, label_smoothing, reduction, class_weight)


def probabilities(logits: Any, shares: Any) -> Any:
    return forms.of_probabilities(logits, shares)


def softmax_over_tokens(logits: Any, labels: Any) -> Any:
    """the log-softmax before the loss is over the tokens, not over the classes."""
    return forms.over_tokens(logits, labels)


FUSION = Fusion(
    name="cross_entropy",
    summary="cross-entropy of given logits: ignored labels, label smoothing, read in their dtype",
    ops=OPS,
    holes={"logits": Tensor("... E"), **forms.HOLES},
    spellings=(
        Spelling(in_float32),
        Spelling(as_it_is, attributes={"dtype": lambda given: given["logits"].dtype}),
        Spelling(weight_per_class, declined=forms.WEIGHTED),
        Spelling(probabilities, declined=forms.PROBABILITIES),
    ),
    near_misses=(softmax_over_tokens,),
    anchors=("cross_entropy", "nll_loss"),
    priority=5,
    bench=(Shape("llama-3-8b, 8192 tokens", {"logits": (8192, 128256), "labels": (8192,)}),),
)
