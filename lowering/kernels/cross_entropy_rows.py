"""The cross-entropy of each row of logits, and its log-sum-exp in two parts.

One pass over the row, with a running maximum, and a sum per lane; the label's logit is read on its
own. The length of a row is a run-time value.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import cuda.tile as ct
import torch

from tile_backend.lowering.kernels import launch_plan, logits
from tile_backend.lowering.kernels.compiled import kernel
from tile_backend.lowering.kernels.configuration import Choose, as_planned
from tile_backend.lowering.kernels.launch_plan import Launch, Sample
from tile_backend.lowering.kernels.logits import per_row, piece_of, value_of
from tile_backend.lowering.kernels.row_layout import merged, row_grid
from tile_backend.lowering.kernels.rows import row_index, store_piece
from tile_backend.lowering.kernels.softmax import finite


def at_label(x: ct.Array, at: tuple[int, ...], label: ct.Tile, ROWS: int) -> ct.Tile:
    """The logit of each row's label, float32 [ROWS, 1]; NaN for a label that is no class.

    label: int32 [ROWS, 1].
    """
    row = at[len(at) - 1] * ROWS + ct.arange(ROWS, dtype=ct.int32)[:, None]
    found = ct.gather(x, (*at[:-1], row, label), padding_value=math.nan)
    return found.astype(ct.float32)


def cross_entropy_rows(
    x: ct.Array,
    labels: ct.Array,
    loss: ct.Array,
    parts: ct.Array,
    ignore: int,
    smoothing: float,
    scale: float,
    cap: float,
    EVERY_OP: ct.Constant[bool],
    CAPPED: ct.Constant[bool],
    SMOOTHED: ct.Constant[bool],
    ROWS: ct.Constant[int],
    BLOCK: ct.Constant[int],
    KEEP_LOSS: ct.Constant[bool],
    KEEP_PARTS: ct.Constant[bool],
) -> None:
    """x [..., V]; labels and loss [..., 1]; parts [..., 2]: the maximum, and the log of the sum."""
    at = row_index(x)
    classes = x.shape[x.ndim - 1]
    peak = ct.full((ROWS, 1), -math.inf, ct.float32)
    mass = ct.zeros((ROWS, BLOCK), ct.float32)
    total = ct.zeros((ROWS, BLOCK), ct.float32)
    for j in range(ct.cdiv(classes, BLOCK)):
        read = piece_of(x, at, j, ROWS, BLOCK)
        values = value_of(read, scale, cap, x.dtype, EVERY_OP, CAPPED)
        inside = (j * BLOCK + ct.arange(BLOCK, dtype=ct.int32))[None, :] < classes
        values = ct.where(inside, values, -math.inf)
        most = ct.max(values, axis=1, keepdims=True, propagate_nan=True)
        higher = ct.maximum(peak, most, propagate_nan=True)
        base = finite(higher)
        mass = mass * ct.exp(peak - base) + ct.exp(values - base)
        if SMOOTHED:  # of differences: a sum of large values would overflow
            moved = (finite(peak) - base) * j
            total = total + moved + ct.where(inside, values - base, 0.0)
        peak = higher
    whole = ct.log(ct.sum(mass, axis=1, keepdims=True))
    if KEEP_PARTS:
        first = ct.arange(2, dtype=ct.int32)[None, :] == 0
        store_piece(parts, at, 0, ct.where(first, peak, whole))
    if KEEP_LOSS:
        given = per_row(labels, at, ROWS, 1)
        is_class = (given >= 0) & (given < classes)
        label = ct.where(is_class, given, -1).astype(ct.int32)
        chosen = value_of(at_label(x, at, label, ROWS), scale, cap, x.dtype, EVERY_OP, CAPPED)
        found = whole - (chosen - peak)
        if SMOOTHED:
            mean = ct.sum(total, axis=1, keepdims=True) / classes + (finite(peak) - peak)
            found = (1.0 - smoothing) * found + smoothing * (whole - mean)
        store_piece(loss, at, 0, ct.where(given == ignore, 0.0, found))


def plan(
    arguments: Mapping[str, Any],
    outputs: tuple[torch.Tensor | None, ...],
    arch: str,
    choose: Choose = as_planned,
) -> Launch | None:
    """See launch_plan. logits [..., V] of any strides, labels [...]; outputs: (loss, parts)."""
    x, labels = arguments["logits"], arguments["labels"].unsqueeze(-1)
    loss, parts = outputs
    launch_plan.require_float(logits=x)
    launch_plan.require_features(x, "logits")
    if launch_plan.is_empty(outputs):
        return None
    loss = None if loss is None else loss.unsqueeze(-1)
    x, labels, *kept = merged((x, labels, *(out for out in (loss, parts) if out is not None)))
    into = [None if out is None else kept.pop(0) for out in (loss, parts)]
    numbers, constants = logits.numbers_of(arguments)
    tile = choose(logits.tile_of(x.shape[-1]))
    return launch_plan.launch(
        kernel(cross_entropy_rows, **tile.hints),
        row_grid(x, tile.rows),
        (
            *(x, labels, *(x if out is None else out for out in into)),
            *(*numbers, *constants, tile.rows, tile.block),
            *(out is not None for out in into),
        ),
    )


def samples() -> list[Sample]:
    """Those of logits, and one where only the losses are read."""
    found: list[Sample] = []
    for name, arguments in logits.calls():
        loss = torch.empty(arguments["labels"].shape, device="meta")
        found.append((name, arguments, (loss, loss.new_empty((*loss.shape, 2)))))
    _, arguments, (loss, _) = found[0]
    return [*found, ("loss_only", arguments, (loss, None))]
