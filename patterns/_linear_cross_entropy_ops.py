"""The custom ops of a last linear layer with its cross-entropy: logits of a few tokens at a time.

A chunk of tokens goes through the layer, its loss and, where a gradient is needed, the gradients
of what the layer reads, so that each product is computed once and no more than a chunk of logits
exists. The gradients are those of the sum of all rows: the upstream gradient and the number of rows
are multiplied in the backward, so that small numbers do not vanish in float16 (Liger Kernel, Hsu
et al., arXiv:2410.10989, section 3.2, does the same but for that).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from tile_backend.lowering.fusion import Gradient, Op, Run
from tile_backend.patterns import _cross_entropy_math as math_of
from tile_backend.patterns._cross_entropy_ops import GRAD, ROWS, WHOLE, loss_of, losses, of_a_row
from tile_backend.patterns._linear_gradients import LinearGradients, kept_dtype

FEWEST_ROWS = 256
"""Of a chunk: with fewer, a matrix product reads the weight for too little work."""


def chunk_rows(width: int) -> int:
    """Tokens per chunk, for `width` features.

    A chunk has logits and their gradient, so with a quarter of `width` tokens it takes half the
    memory of the weight, whatever the vocabulary is.
    """
    return max(FEWEST_ROWS, width // 4 // 128 * 128)


def linear_cross_entropy(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    labels: torch.Tensor,
    gradients: str = "",
    **given: Any,
) -> torch.Tensor:
    """cross_entropy(hidden @ weight.T + bias, labels), the logits rounded to hidden's dtype.

    hidden [..., D], weight [V, D], bias [V], labels [...] int64; see `_cross_entropy_math`.
    gradients: which of them the op beside this one computes, as "hidden,weight".
    """
    logits = F.linear(math_of.as_rows(hidden), weight, bias)
    return math_of.cross_entropy(logits, labels, **given)


def linear_cross_entropy_with_gradients(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    labels: torch.Tensor,
    gradients: str = "",
    **given: Any,
) -> tuple[torch.Tensor, ...]:
    """Its result, and the gradients of the sum of all rows: of hidden, weight, bias, or [0]."""
    loss = linear_cross_entropy(hidden, weight, bias, labels, **given)
    rows, row, labels = math_of.as_rows(hidden), of_a_row(given), labels.reshape(-1)
    logits = F.linear(rows, weight, bias)
    found = math_of.cross_entropy_rows(logits, labels, **row)[1]
    one = torch.ones((), dtype=torch.float32, device=hidden.device)
    slope = math_of.cross_entropy_grad(logits, labels, found, one, **row)
    wanted, kept = gradients.split(","), kept_dtype(weight.dtype)
    return (
        loss,
        (slope @ weight).reshape(hidden.shape) if "hidden" in wanted else hidden.new_empty(0),
        (slope.t().to(kept) @ rows.to(kept)) if "weight" in wanted else nothing(weight),
        slope.to(kept).sum(0) if "bias" in wanted else nothing(weight),
    )


def nothing(weight: torch.Tensor) -> torch.Tensor:
    return weight.new_empty(0, dtype=kept_dtype(weight.dtype))


def outputs(
    labels: torch.Tensor, reduction: str, dtype: torch.dtype | None, **_: Any
) -> torch.Tensor:
    return loss_of(labels, reduction, dtype)


def outputs_with_gradients(**arguments: Any) -> tuple[torch.Tensor, ...]:
    hidden, weight = arguments["hidden"], arguments["weight"]
    wanted, kept = arguments["gradients"].split(","), kept_dtype(weight.dtype)
    return (
        outputs(**arguments),
        hidden.new_empty(hidden.shape if "hidden" in wanted else (0,)),
        weight.new_empty(weight.shape if "weight" in wanted else (0,), dtype=kept),
        weight.new_empty(weight.shape[:1] if "bias" in wanted else (0,), dtype=kept),
    )


# --- chunk by chunk -------------------------------------------------------------------------------


def composed(
    run: Run, arguments: Mapping[str, Any], outputs: Sequence[torch.Tensor | None]
) -> None:
    """See Op.composed. outputs: (loss,) or (loss, gradients of hidden, weight, bias)."""
    loss, *found = outputs
    hidden, labels = arguments["hidden"], arguments["labels"].reshape(-1)
    read = {**arguments, "hidden": math_of.as_rows(hidden), "labels": labels}
    math_of.refuse_others(labels, arguments["ignore_index"], arguments["weight"].shape[0])
    rows, step = losses(labels), chunk_rows(hidden.shape[-1])
    sums = LinearGradients(read, found, alone=len(labels) <= step)
    for start in range(0, len(labels), step):
        one_chunk(run, read, rows, sums, slice(start, start + step))
    sums.finish()
    if loss is not None:
        ignore, reduction = arguments["ignore_index"], arguments["reduction"]
        loss.copy_(math_of.reduced(rows, labels, ignore, reduction).reshape(loss.shape))


def one_chunk(
    run: Run, read: Mapping[str, Any], rows: torch.Tensor, sums: LinearGradients, at: slice
) -> None:
    """The losses of the rows `at`, and what they add to the gradients. Its logits die with it."""
    hidden, labels, given = read["hidden"][at], read["labels"][at], of_a_row(read)
    logits = F.linear(hidden, read["weight"], read["bias"])
    rows[at], parts = run("cross_entropy_rows", logits=logits, labels=labels, **given)
    if sums.wanted:
        known = {"logits": logits, "labels": labels, "parts": parts, "factor": sums.one}
        sums.add(run("cross_entropy_grad", **known, **given), hidden, at)


# --- training -------------------------------------------------------------------------------------

DIFFERENTIABLE = frozenset(("hidden", "weight", "bias"))


def applies(arguments: Mapping[str, Any], needed: Sequence[str]) -> bool:
    """Not for a loss per token: each has a factor of its own, known in the backward only."""
    return arguments["reduction"] != "none" and DIFFERENTIABLE.issuperset(needed)


def backward(
    run: Run,
    arguments: Mapping[str, Any],
    results: Sequence[torch.Tensor],
    cotangents: Sequence[torch.Tensor],
    needed: Sequence[str],
) -> dict[str, torch.Tensor | None]:
    """See Gradient. ATen, which Inductor fuses: one pass over each gradient."""
    (dout,), sums = cotangents, results
    ignore, reduction = arguments["ignore_index"], arguments["reduction"]
    labels = arguments["labels"]
    of_row, of_all = math_of.factors_of_sums(dout, labels, ignore, reduction)
    of_row = of_row.reshape(arguments["hidden"].shape[:-1]).unsqueeze(-1)
    named = zip(("hidden", "weight", "bias"), sums, (of_row, of_all, of_all), strict=True)
    found = {name: (total, factor) for name, total, factor in named if name in needed}
    return {
        name: (total.float() * factor).to(arguments[name].dtype)
        for name, (total, factor) in found.items()
    }


def sizes(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """See Op.sizes."""
    rows = math.prod(arguments["hidden"].shape[:-1])
    return {"rows": rows, "vocabulary": arguments["weight"].shape[0]}


LINEAR = f"(Tensor hidden, Tensor weight, Tensor? bias, Tensor labels, {WHOLE}, str gradients='')"

OPS = (
    Op(
        "linear_cross_entropy",
        f"{LINEAR} -> Tensor",
        linear_cross_entropy,
        outputs,
        gradient=Gradient(
            applies,
            backward,
            saving="linear_cross_entropy_with_gradients",
            kept=(1, 2, 3),
            always=True,
            named="gradients",
        ),
        stands_for=("mm", "addmm", "bmm", "_log_softmax", "nll_loss_forward"),
        composed=composed,
        sizes=sizes,
        unsized=("bias", "labels"),
    ),
    Op(
        "linear_cross_entropy_with_gradients",
        f"{LINEAR} -> (Tensor, Tensor, Tensor, Tensor)",
        linear_cross_entropy_with_gradients,
        outputs_with_gradients,
        composed=composed,
        sizes=sizes,
        unsized=("bias", "labels"),
    ),
    ROWS,
    GRAD,
)
