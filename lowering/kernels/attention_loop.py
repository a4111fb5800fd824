"""Flash attention inside a kernel: online softmax over key tiles (Dao et al., arXiv:2205.14135).

Scores are float32 [ROWS, COLS], in one of three units, see attention_scores. A row's running state
is its maximum `peak`, the sum of its weights `mass` and its weighted values `total`.
"""

from __future__ import annotations

import math

import cuda.tile as ct

from tile_backend.lowering.kernels.attention_scores import (
    ADDED,
    BASE_2,
    BASE_E,
    BASE_E_EXACT,
    LOG2_E,
    ZERO,
    product,
)

GIVES_ZERO, GIVES_NAN, GIVES_MEAN, FILLED = range(4)
"""What a row that sees no key gives: 0 as SDPA; NaN, the softmax of -inf only; the mean of all
values, the softmax of equal numbers that weigh nothing beside a visible score. FILLED: no such row,
since hidden keys have a score like others, and count."""


def load_values(
    v: ct.Array, batch: int, head: int, j: int, COLS: int, VALUE_WIDTH: int, LATENCY: int
) -> ct.Tile:
    """Values of tile j, [COLS, VALUE_WIDTH], 0 outside."""
    shape = (1, 1, COLS, VALUE_WIDTH)
    found = ct.load(v, (batch, head, j, 0), shape, padding_mode=ZERO, latency=LATENCY)
    return found.reshape((COLS, VALUE_WIDTH))


def power(difference: ct.Tile, UNIT: int) -> ct.Tile:
    """exp of a difference of two scores."""
    if UNIT == BASE_E_EXACT:
        result = ct.exp(difference)
    elif UNIT == BASE_E:
        result = ct.exp2(difference * LOG2_E, flush_to_zero=True)
    else:
        result = ct.exp2(difference, flush_to_zero=True)
    return result


def beginning(
    sinks: ct.Array, head: int, tile: int, ROWS: int, VALUE_WIDTH: int, SINKS: bool, UNIT: int
) -> tuple[ct.Tile, ct.Tile, ct.Tile]:
    """peak, mass, total before the first key: of nothing, or of the sink, which has no value.

    sinks: one number per head and query.
    """
    peak = ct.full((ROWS, 1), -math.inf, ct.float32)
    mass = ct.zeros((ROWS, 1), ct.float32)
    if SINKS:
        found = ct.load(sinks, (head, tile), (1, ROWS), padding_mode=ZERO, allow_tma=False)
        peak = found.reshape((ROWS, 1)).astype(ct.float32)
        if UNIT == BASE_2:
            peak = peak * LOG2_E
        mass = ct.where(peak == -math.inf, 0.0, ct.full((ROWS, 1), 1.0, ct.float32))
    return peak, mass, ct.zeros((ROWS, VALUE_WIDTH), ct.float32)


def fold_in(
    scores: ct.Tile,
    values: ct.Tile,
    peak: ct.Tile,
    mass: ct.Tile,
    total: ct.Tile,
    MAY_BE_EMPTY: bool,
    UNIT: int,
) -> tuple[ct.Tile, ct.Tile, ct.Tile]:
    """Merge one tile of scores into the running state."""
    higher = ct.maximum(peak, ct.max(scores, axis=1, keepdims=True))
    base = higher
    if MAY_BE_EMPTY:
        # A row that has attended nowhere so far: -inf - -inf would be NaN.
        base = ct.where(higher == -math.inf, 0.0, higher)
    weights = power(scores - base, UNIT)
    decay = power(peak - base, UNIT)
    mass = mass * decay + ct.sum(weights, axis=1, keepdims=True)
    total = product(weights.astype(values.dtype), values, total * decay)
    return higher, mass, total


def with_means(
    total: ct.Tile, mass: ct.Tile, v: ct.Array, batch: int, head: int, COLS: int, VALUE_WIDTH: int
) -> tuple[ct.Tile, ct.Tile]:
    """total and mass, in which rows that have seen nothing see every key alike.

    Plain loads: this loop is rare, and a second one with TMA spills on sm_100.
    """
    shape = (1, 1, COLS, VALUE_WIDTH)
    sums = ct.zeros((1, VALUE_WIDTH), ct.float32)
    for j in range(ct.cdiv(v.shape[2], COLS)):
        values = ct.load(v, (batch, head, j, 0), shape, padding_mode=ZERO, allow_tma=False)
        values = values.reshape((COLS, VALUE_WIDTH)).astype(ct.float32)
        sums = sums + ct.sum(values, axis=0, keepdims=True)
    nothing = mass == 0.0
    return ct.where(nothing, sums, total), ct.where(nothing, v.shape[2] * 1.0, mass)


def log_sum_exp(peak: ct.Tile, mass: ct.Tile, UNIT: int) -> ct.Tile:
    """The natural logarithm of the sum of exp(score): -inf where peak and log(mass) are."""
    return (peak + ct.log2(mass)) / LOG2_E if UNIT == BASE_2 else peak + ct.log(mass)


def store_log_sum_exp(
    lse: ct.Array,
    peak: ct.Tile,
    mass: ct.Tile,
    batch: int,
    head: int,
    tile: int,
    MASK: int,
    EMPTY: int,
    UNIT: int,
) -> None:
    """lse [B, H, S], or for a mask that is added [2, B, H, S]: rounded, and what that took away.

    Of a row whose scores are all the lowest number, the rounded one has lost all of log(mass).
    """
    rows = peak.shape[0]
    logs = log_sum_exp(peak, mass, UNIT)
    if MASK == ADDED:
        rest = ct.where(mass == 0.0, 0.0, ct.log(mass) - (logs - peak))
        if EMPTY == GIVES_NAN:
            logs = ct.where(mass == 0.0, math.nan, logs)
        shape = (1, 1, 1, rows)
        ct.store(lse, (0, batch, head, tile), logs.reshape(shape), allow_tma=False)
        ct.store(lse, (1, batch, head, tile), rest.reshape(shape), allow_tma=False)
    else:
        ct.store(lse, (batch, head, tile), logs.reshape((1, 1, rows)), allow_tma=False)
