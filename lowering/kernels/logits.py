"""What the kernels of cross-entropy share: values of logits, labels, and their plan's checks.

A block holds ROWS rows of logits in pieces of BLOCK classes; labels, losses and the like are arrays
with a last dimension of their own size, so that a row has the same tile index in all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cuda.tile as ct
import torch

from tile_backend.lowering.kernels import launch_plan
from tile_backend.lowering.kernels.row_layout import RESIDENT_WARPS, RowTile, next_power_of_two
from tile_backend.lowering.kernels.rows import rounded

ROUNDING = {"once": 0, "every_op": 1}
BLOCK = 4096
"""Classes per piece: 16 per thread of 8 warps."""


def piece_of(x: ct.Array, at: tuple[int, ...], j: int, ROWS: int, BLOCK: int) -> ct.Tile:
    """Classes j * BLOCK and on of the rows at `at`, float32 [ROWS, BLOCK], -inf beyond the row."""
    shape = ct.static_eval((1,) * (x.ndim - 2) + (ROWS, BLOCK))
    padding = ct.PaddingMode.NEG_INF
    tile = ct.load(x, (*at, j), shape, padding_mode=padding, allow_tma=False)
    return tile.reshape((ROWS, BLOCK)).astype(ct.float32)


def per_row(x: ct.Array, at: tuple[int, ...], ROWS: int, WIDTH: int) -> ct.Tile:
    """What a row has of its own, [ROWS, WIDTH]; 0 beyond the last row."""
    shape = ct.static_eval((1,) * (x.ndim - 2) + (ROWS, WIDTH))
    tile = ct.load(x, (*at, 0), shape, padding_mode=ct.PaddingMode.ZERO, allow_tma=False)
    return tile.reshape((ROWS, WIDTH))


def step(x: ct.Tile, dtype: ct.DType, EVERY_OP: bool) -> ct.Tile:
    """x after an op of the model: rounded where it computes in low precision."""
    return rounded(x, dtype) if EVERY_OP else x


def bent(x: ct.Tile, scale: float, cap: float, dtype: ct.DType, EVERY_OP: bool) -> ct.Tile:
    """tanh(scale * x / cap) of a bounded logit."""
    z = step(x * scale, dtype, EVERY_OP)
    return step(ct.tanh(step(z * (1.0 / cap), dtype, EVERY_OP)), dtype, EVERY_OP)


def value_of(
    x: ct.Tile, scale: float, cap: float, dtype: ct.DType, EVERY_OP: bool, CAPPED: bool
) -> ct.Tile:
    """The value that the softmax is of: scale * x, or bounded by cap."""
    if CAPPED:
        value = step(bent(x, scale, cap, dtype, EVERY_OP) * cap, dtype, EVERY_OP)
    else:
        value = step(x * scale, dtype, EVERY_OP)
    return value


def numbers_of(arguments: Mapping[str, Any]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """The numbers of a kernel, and its constants."""
    cap = arguments["softcap"]
    smoothing = float(arguments["label_smoothing"])
    mode = launch_plan.choose("rounding", arguments["rounding"], ROUNDING)
    numbers = (
        int(arguments["ignore_index"]),
        smoothing,
        float(arguments["scale"]),
        float(cap or 0.0),
    )
    return numbers, (mode == 1, cap is not None, smoothing != 0.0)


def tile_of(classes: int, short: int = 512) -> RowTile:
    """Of rows of which no piece is held. short: logits of a block of rows of few classes."""
    block = min(next_power_of_two(classes), BLOCK)
    warps = 8 if block >= 2048 else 4
    occupancy = RESIDENT_WARPS // warps
    return RowTile(max(short // block, 1), block, warps, occupancy, classes, most_pieces=0)


def with_last(x: torch.Tensor) -> torch.Tensor:
    """[...] as [..., 1]."""
    return x.unsqueeze(-1)


def arguments_like(
    logits: torch.Tensor, labels: torch.Tensor | None = None, **given: Any
) -> dict[str, Any]:
    """Arguments of both ops for these logits."""
    usual = {"ignore_index": -100, "label_smoothing": 0.0, "scale": 1.0, "softcap": None}
    labels = logits.new_empty(logits.shape[:-1], dtype=torch.int64) if labels is None else labels
    return {"logits": logits, "labels": labels, **usual, "rounding": "once", **given}


def calls() -> list[tuple[str, dict[str, Any]]]:
    """Named arguments of both ops: vocabularies, few classes, a shift that is a slice."""

    def logits(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    bounded: dict[str, Any] = {"scale": 0.5, "softcap": 30.0, "label_smoothing": 0.1}
    bounded["rounding"] = "every_op"
    return [
        ("llama", arguments_like(logits(1024, 128256))),
        ("float32", arguments_like(logits(1024, 50257, dtype=torch.float32))),
        ("bounded", arguments_like(logits(256, 256000), **bounded)),
        ("few", arguments_like(logits(4096, 10, dtype=torch.float32))),
        ("shifted", arguments_like(logits(8, 513, 32000)[:, :-1])),
    ]
