"""How a model writes a loss on logits: the functions that the spellings are made of.

The labels have the shape of the rows, and the classes are the second dimension, as torch's
cross_entropy takes them; a flattening, a shift, nn.CrossEntropyLoss, and nll_loss after log_softmax
are the same terms (lowering.vocabulary_loss). Logits [..., V], labels [...].
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from tile_backend.lowering.fusion import Reason, ReasonKind, Scalar, Tensor


def loss(
    logits: Any,
    labels: Any,
    ignore_index: Any,
    label_smoothing: Any,
    reduction: Any,
    class_weight: Any = None,
) -> Any:
    return F.cross_entropy(
        logits.transpose(1, 2),
        labels,
        weight=class_weight,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        reduction=reduction,
    )


def of_probabilities(logits: Any, shares: Any) -> Any:
    return F.cross_entropy(logits.transpose(1, 2), shares.transpose(1, 2))


def over_tokens(logits: Any, labels: Any) -> Any:
    return F.nll_loss(F.log_softmax(logits, dim=1).transpose(1, 2), labels)


def capped(logits: Any, softcap: Any) -> Any:
    return torch.tanh(logits / softcap) * softcap


def unsupported(what: str) -> Reason:
    return Reason(ReasonKind.SEMANTICS_UNSUPPORTED, f"cross-entropy with {what} has no kernel yet")


WEIGHTED = unsupported("a weight for each class")
PROBABILITIES = unsupported("probabilities as labels")

HOLES: dict[str, Tensor | Scalar] = {
    "labels": Tensor("...", dtype="i64"),
    "class_weight": Tensor("E"),
    "shares": Tensor("... E"),
    "ignore_index": Scalar(int),
    "label_smoothing": Scalar(),
    "reduction": Scalar(str),
}
"""Those that both fusions have."""
