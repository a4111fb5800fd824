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


def lse_in_unit(lse: ct.Tile, UNIT: int) -> ct.Tile:
    """The log-sum-exp in the unit of the scores; inf, for weights of 0, where nothing is seen."""
    lse = ct.where(lse == -math.inf, math.inf, lse)
    return lse * LOG2_E if UNIT == BASE_2 else lse


def weights_and_bend(
    products: ct.Tile,
    found: ct.Tile,
    lse: ct.Tile,
    scale: float,
    cap: float,
    MASK: int,
    CAPPED: bool,
    UNIT: int,
) -> tuple[ct.Tile, ct.Tile]:
    """exp(scores - lse), hidden ones too, and tanh of the scores if CAPPED.

    products: q @ k^T. found: a tile of an ADDED mask, or anything. scale: up to the score, or if
    CAPPED up to the argument of tanh; cap: the soft cap in the unit of the scores.
    """
    bend = products * scale
    scores = bend
    if CAPPED:
        bend = bounded(bend, UNIT)
        scores = bend * cap
    if MASK == ADDED:
        scores = scores + found.astype(ct.float32)
    return power(scores - lse, UNIT), bend


def slopes_of(weights: ct.Tile, raised: ct.Tile, bend: ct.Tile, CAPPED: bool) -> ct.Tile:
    """The gradient of q @ k^T, before the factor `scale`.

    raised: dO @ V^T - delta, which a product gives that starts from -delta: that spills less than
    to subtract it.
    """
    slopes = weights * raised
    return slopes * (1.0 - bend * bend) if CAPPED else slopes
