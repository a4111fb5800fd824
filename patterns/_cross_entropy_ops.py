"""The custom ops of cross-entropy on given logits.

Two have kernels: `cross_entropy_rows`, the loss of each row, and `cross_entropy_grad`. The others
are made of them: a kernel has no deterministic sum over all rows in one launch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from tile_backend.lowering.fusion import Gradient, Op, Run
from tile_backend.patterns import _cross_entropy_math as math_of

ROW = (
    "int ignore_index=-100, float label_smoothing=0.0, float scale=1.0, float? softcap=None,"
    " str rounding='once'"
)
"""What says how the loss of a row is computed."""
WHOLE = f"{ROW}, str reduction='mean', ScalarType? dtype=None"
"""And that of all rows."""


def of_a_row(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments in ROW."""
    names = ("ignore_index", "label_smoothing", "scale", "softcap", "rounding")
    return {name: arguments[name] for name in names}


def losses(labels: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(labels, dtype=torch.float32, memory_format=torch.contiguous_format)


def parts(labels: torch.Tensor) -> torch.Tensor:
    return labels.new_empty((*labels.shape, 2), dtype=torch.float32)


def loss_of(labels: torch.Tensor, reduction: str, dtype: torch.dtype | None) -> torch.Tensor:
    """The uninitialised result of a loss."""
    shape = labels.shape if reduction == "none" else ()
    return labels.new_empty(shape, dtype=dtype or torch.float32)


def outputs(
    labels: torch.Tensor, reduction: str, dtype: torch.dtype | None, **_: Any
) -> torch.Tensor:
    return loss_of(labels, reduction, dtype)


def outputs_with_parts(**arguments: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return outputs(**arguments), parts(arguments["logits"][..., 0])


def labels_of_rows(arguments: Mapping[str, Any]) -> torch.Tensor:
    """The labels as [...] for logits [..., V]; a model may have flattened one of them."""
    labels: torch.Tensor = arguments["labels"]
    return labels.reshape(arguments["logits"].shape[:-1])


def cross_entropy_with_parts(**arguments: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """The result of `cross_entropy`, and the parts of `cross_entropy_rows`."""
    logits, labels = arguments["logits"], labels_of_rows(arguments)
    found = math_of.cross_entropy_rows(logits, labels, **of_a_row(arguments))[1]
    return math_of.cross_entropy(**arguments), found


def composed(
    run: Run, arguments: Mapping[str, Any], outputs: Sequence[torch.Tensor | None]
) -> None:
    """See Op.composed. outputs: (loss,) or (loss, parts)."""
    loss, *kept = outputs
    labels, given = labels_of_rows(arguments), of_a_row(arguments)
    math_of.refuse_others(labels, given["ignore_index"], arguments["logits"].shape[-1])
    rows, found = run("cross_entropy_rows", logits=arguments["logits"], labels=labels, **given)
    if loss is not None:
        ignore, reduction = arguments["ignore_index"], arguments["reduction"]
        loss.copy_(math_of.reduced(rows, labels, ignore, reduction).reshape(loss.shape))
    for out in kept:
        if out is not None:
            out.copy_(found)


def applies(arguments: Mapping[str, Any], needed: Sequence[str]) -> bool:
    return list(needed) == ["logits"]


def backward(
    run: Run,
    arguments: Mapping[str, Any],
    results: Sequence[torch.Tensor],
    cotangents: Sequence[torch.Tensor],
    needed: Sequence[str],
) -> dict[str, torch.Tensor | None]:
    """See Gradient: the softmax is computed again, from the logits and the parts of its sum."""
    (dout,), (found,) = cotangents, results
    labels, given = labels_of_rows(arguments), of_a_row(arguments)
    reduction = arguments["reduction"]
    dout = dout.reshape(labels.shape) if reduction == "none" else dout
    factor = math_of.factor_of(dout, labels, given["ignore_index"], reduction)
    read = {"logits": arguments["logits"], "labels": labels, "parts": found, "factor": factor}
    return {"logits": run("cross_entropy_grad", **read, **given)}


ROWS = Op(
    "cross_entropy_rows",
    f"(Tensor logits, Tensor labels, {ROW}) -> (Tensor, Tensor)",
    math_of.cross_entropy_rows,
    lambda **given: (losses(given["labels"]), parts(given["labels"])),
    unsized=("labels",),
)
GRAD = Op(
    "cross_entropy_grad",
    f"(Tensor logits, Tensor labels, Tensor parts, Tensor factor, {ROW}) -> Tensor",
    math_of.cross_entropy_grad,
    lambda **given: torch.empty_like(given["logits"], memory_format=torch.contiguous_format),
    unsized=("labels", "parts", "factor"),
)
OPS = (
    Op(
        "cross_entropy",
        f"(Tensor logits, Tensor labels, {WHOLE}) -> Tensor",
        math_of.cross_entropy,
        outputs,
        gradient=Gradient(
            applies, backward, saving="cross_entropy_with_parts", kept=(1,), always=True
        ),
        stands_for=("_log_softmax", "nll_loss_forward", "nll_loss2d_forward"),
        composed=composed,
        unsized=("labels",),
    ),
    Op(
        "cross_entropy_with_parts",
        f"(Tensor logits, Tensor labels, {WHOLE}) -> (Tensor, Tensor)",
        cross_entropy_with_parts,
        outputs_with_parts,
        composed=composed,
        unsized=("labels",),
    ),
    ROWS,
    GRAD,
)
