"""The gradient of logits under cross-entropy: softmax minus the label's share, element by element.

The softmax comes from the two parts of its log-sum-exp, which the forward kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cuda.tile as ct
import torch

from tile_backend.lowering.kernels import launch_plan, logits
from tile_backend.lowering.kernels.compiled import kernel
from tile_backend.lowering.kernels.configuration import Choose, as_planned
from tile_backend.lowering.kernels.launch_plan import KernelLimit, Launch, Sample
from tile_backend.lowering.kernels.logits import bent, per_row, piece_of, step
from tile_backend.lowering.kernels.row_layout import merged, row_grid
from tile_backend.lowering.kernels.rows import row_index, store_piece
from tile_backend.lowering.reason import ReasonKind


def cross_entropy_grad(
    x: ct.Array,
    labels: ct.Array,
    parts: ct.Array,
    factor: ct.Array,
    out: ct.Array,
    ignore: int,
    smoothing: float,
    scale: float,
    cap: float,
    EVERY_OP: ct.Constant[bool],
    CAPPED: ct.Constant[bool],
    SMOOTHED: ct.Constant[bool],
    ROWS: ct.Constant[int],
    BLOCK: ct.Constant[int],
) -> None:
    """x and out [..., V]; labels and factor [..., 1]; parts [..., 2]."""
    at = row_index(x)
    classes = x.shape[x.ndim - 1]
    given = per_row(labels, at, ROWS, 1)
    label = ct.where((given >= 0) & (given < classes), given, -1).astype(ct.int32)
    kept = per_row(parts, at, ROWS, 2)
    top, whole = ct.extract(kept, (0, 0), (ROWS, 1)), ct.extract(kept, (0, 1), (ROWS, 1))
    # Multiplied, not selected: where eager has NaN in an ignored row, so has this.
    weight = ct.where(given == ignore, 0.0, per_row(factor, at, ROWS, 1)) * scale
    nothing = weight - weight  # NaN beside infinity: torch subtracts two gradients there
    for j in range(ct.cdiv(classes, BLOCK)):
        read = piece_of(x, at, j, ROWS, BLOCK)
        if CAPPED:
            bend = bent(read, scale, cap, x.dtype, EVERY_OP)
            values = step(bend * cap, x.dtype, EVERY_OP)
        else:
            bend = ct.zeros((ROWS, BLOCK), ct.float32)
            values = step(read * scale, x.dtype, EVERY_OP)
        column = (j * BLOCK + ct.arange(BLOCK, dtype=ct.int32))[None, :]
        slope = ct.exp((values - top) - whole)
        slope = ct.where(column == label, slope - (1.0 - smoothing - nothing), slope)
        if SMOOTHED:
            slope = slope - (smoothing / classes - nothing)
        slope = slope * weight
        if CAPPED:
            slope = slope * (1.0 - bend * bend)
        store_piece(out, at, j, slope)


def plan(
    arguments: Mapping[str, Any],
    outputs: tuple[torch.Tensor | None, ...],
    arch: str,
    choose: Choose = as_planned,
) -> Launch | None:
    """See launch_plan. logits [..., V] of any strides, labels [...], factor [...] or []."""
    x, labels, parts = (arguments[name] for name in ("logits", "labels", "parts"))
    (out,) = outputs
    launch_plan.require_float(logits=x)
    launch_plan.require_features(x, "logits")
    factor = arguments["factor"]
    if factor.dtype != torch.float32 or parts.dtype != torch.float32:
        raise KernelLimit(ReasonKind.DTYPE_LIMIT, "`factor` and `parts` have to be float32")
    if out is None or launch_plan.is_empty(outputs):
        return None
    factor = factor.expand(labels.shape).unsqueeze(-1)
    out, x, labels, parts, factor = merged((out, x, labels.unsqueeze(-1), parts, factor))
    numbers, constants = logits.numbers_of(arguments)
    tile = choose(logits.tile_of(x.shape[-1], 256))
    return launch_plan.launch(
        kernel(cross_entropy_grad, **tile.hints),
        row_grid(out, tile.rows),
        (x, labels, parts, factor, out, *numbers, *constants, tile.rows, tile.block),
    )


def samples() -> list[Sample]:
    """Those of logits, and one with a factor for each row."""
    found: list[Sample] = []
    for name, given in logits.calls():
        shape = given["labels"].shape
        parts = torch.empty((*shape, 2), device="meta")
        given = {**given, "parts": parts, "factor": parts.new_empty(())}
        out = torch.empty_like(given["logits"], memory_format=torch.contiguous_format)
        found.append((name, given, (out,)))
    _, given, outputs = found[0]
    each = given["parts"].new_empty(given["labels"].shape)
    return [*found, ("factors", {**given, "factor": each}, outputs)]
