"""The softmax's weights and their gradient for one tile of scores, from the log-sum-exp of forward.

Tiles are [queries, keys] or, where TRANSPOSED, [keys, queries]; what belongs to queries comes as
[queries, 1] or [1, queries]. Units of the scores are those of attention_scores.
"""

from __future__ import annotations

import math

import cuda.tile as ct

from tile_backend.lowering.kernels.attention_loop import power
from tile_backend.lowering.kernels.attention_scores import ADDED, BASE_2, LOG2_E, ZERO, bounded


def per_query(
    array: ct.Array, batch: int, head: int, tile: int, ROWS: int, TRANSPOSED: bool
) -> ct.Tile:
    """A tile of lse or delta [B, H, S], float32; 0 outside."""
    found = ct.load(array, (batch, head, tile), (1, 1, ROWS), padding_mode=ZERO, allow_tma=False)
    return found.reshape((1, ROWS) if TRANSPOSED else (ROWS, 1))


def log_sums(
    lse: ct.Array,
    batch: int,
    head: int,
    tile: int,
    ROWS: int,
    MASK: int,
    UNIT: int,
    TRANSPOSED: bool,
) -> tuple[ct.Tile, ct.Tile]:
    """The log-sum-exp in the unit of the scores, and if ADDED what its rounding took away.

    lse: see attention_loop.store_log_sum_exp. inf, for weights of 0, where nothing is seen.
    """
    if MASK == ADDED:
        tiles = (1, 1, 1, ROWS)
        shape = (1, ROWS) if TRANSPOSED else (ROWS, 1)
        logs = ct.load(lse, (0, batch, head, tile), tiles, padding_mode=ZERO, allow_tma=False)
        rest = ct.load(lse, (1, batch, head, tile), tiles, padding_mode=ZERO, allow_tma=False)
        logs, rest = logs.reshape(shape), rest.reshape(shape)
    else:
        logs = per_query(lse, batch, head, tile, ROWS, TRANSPOSED)
        rest = logs
    logs = ct.where(logs == -math.inf, math.inf, logs)
    return logs * LOG2_E if UNIT == BASE_2 else logs, rest


def weights_and_bend(
    products: ct.Tile,
    found: ct.Tile,
    lse: ct.Tile,
    rest: ct.Tile,
    scale: float,
    cap: float,
    MASK: int,
    CAPPED: bool,
    UNIT: int,
) -> tuple[ct.Tile, ct.Tile]:
    """exp(scores - lse), hidden ones too, and tanh of the scores if CAPPED.

    products: q @ k^T. found, rest: tiles of an ADDED mask and of `log_sums`, or anything. scale: up
    to the score, or if CAPPED up to the argument of tanh; cap: the soft cap in the unit of the
    scores.
    """
    bend = products * scale
    scores = bend
    if CAPPED:
        bend = bounded(bend, UNIT)
        scores = bend * cap
    if MASK == ADDED:
        scores = scores + found.astype(ct.float32)
    difference = scores - lse
    if MASK == ADDED:
        difference = difference - rest
    return power(difference, UNIT), bend


def slopes_of(weights: ct.Tile, raised: ct.Tile, bend: ct.Tile, CAPPED: bool) -> ct.Tile:
    """The gradient of q @ k^T, before the factor `scale`.

    raised: dO @ V^T - delta, which a product gives that starts from -delta: that spills less than
    to subtract it.
    """
    slopes = weights * raised
    return slopes * (1.0 - bend * bend) if CAPPED else slopes
