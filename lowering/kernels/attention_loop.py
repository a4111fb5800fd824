"""Flash attention inside a kernel: online softmax over key tiles (Dao et al., arXiv:2205.14135).

Scores are float32 [ROWS, COLS], in one of three units:
BASE_2        they carry a factor log2(e), so that a weight is one exp2
BASE_E        they carry none: finfo.min of an additive mask times log2(e) would overflow to -inf
              and change fully masked rows
BASE_E_EXACT  for float32 inputs: exp itself, which does not round the scaled difference
"""

from __future__ import annotations

import math

import cuda.tile as ct

LOG2_E = math.log2(math.e)
UNMASKED, ATTEND, FILLED, ADDED, ADDED_BY_HAND = range(5)
"""Mask: none; bool, -inf elsewhere; bool, `fill` elsewhere; float, added; the same, where a row of
-inf gives NaN."""
BASE_2, BASE_E, BASE_E_EXACT = range(3)
ZERO = ct.PaddingMode.ZERO


def load_keys(
    k: ct.Array, batch: int, head: int, j: int, WIDTH: int, COLS: int, LATENCY: int
) -> ct.Tile:
    """Keys of tile j, transposed by the load: [WIDTH, COLS], 0 outside."""
    found = ct.load(
        k,
        (batch, head, 0, j),
        (1, 1, WIDTH, COLS),
        order=(0, 1, 3, 2),
        padding_mode=ZERO,
        latency=LATENCY,
    )
    return found.reshape((WIDTH, COLS))


def load_values(
    v: ct.Array, batch: int, head: int, j: int, COLS: int, VALUE_WIDTH: int, LATENCY: int
) -> ct.Tile:
    """Values of tile j, [COLS, VALUE_WIDTH], 0 outside."""
    shape = (1, 1, COLS, VALUE_WIDTH)
    found = ct.load(v, (batch, head, j, 0), shape, padding_mode=ZERO, latency=LATENCY)
    return found.reshape((COLS, VALUE_WIDTH))


def hide(scores: ct.Tile, tile: int, j: int, keys: int, CAUSAL: bool) -> ct.Tile:
    """-inf for keys that do not exist and, if CAUSAL, for those after the query."""
    ROWS, COLS = scores.shape
    column = j * COLS + ct.arange(COLS, dtype=ct.int32)[None, :]
    visible = column < keys
    if CAUSAL:
        row = tile * ROWS + ct.arange(ROWS, dtype=ct.int32)[:, None]
        visible = visible & (column <= row)
    return ct.where(visible, scores, -math.inf)


def load_mask(
    mask: ct.Array, batch: int, head: int, tile: int, j: int, MASK_ROWS: int, COLS: int
) -> ct.Tile:
    """Tile j of the mask, [MASK_ROWS, COLS]; a batch, head or row axis of size 1 serves all."""
    b = min(batch, mask.shape[0] - 1)
    h = min(head, mask.shape[1] - 1)
    row = tile if MASK_ROWS > 1 else 0
    found = ct.load(
        mask, (b, h, row, j), (1, 1, MASK_ROWS, COLS), padding_mode=ZERO, allow_tma=False
    )
    return found.reshape((MASK_ROWS, COLS))


def mask_scores(scores: ct.Tile, found: ct.Tile, fill: float, MASK: int) -> ct.Tile:
    """Apply a mask tile. `fill` carries the same factor as the scores."""
    if MASK in (ADDED, ADDED_BY_HAND):
        scores = scores + found.astype(ct.float32)
    else:
        scores = ct.where(found, scores, fill if MASK == FILLED else -math.inf)
    return scores


def product(x: ct.Tile, y: ct.Tile, total: ct.Tile) -> ct.Tile:
    """total + x @ y. float32 operands are split into two tfloat32 parts each, on tensor cores.

    The product of the two low parts, 2**-22 of the result, is dropped (3xTF32).
    """
    if x.dtype == ct.float32:
        x_high = x.astype(ct.tfloat32)
        y_high = y.astype(ct.tfloat32)
        x_low = (x - x_high.astype(ct.float32)).astype(ct.tfloat32)
        y_low = (y - y_high.astype(ct.float32)).astype(ct.tfloat32)
        total = ct.mma(x_low, y_high, total)
        total = ct.mma(x_high, y_low, total)
        total = ct.mma(x_high, y_high, total)
    else:
        total = ct.mma(x, y, total)
    return total


def power(difference: ct.Tile, UNIT: int) -> ct.Tile:
    """exp of a difference of two scores."""
    if UNIT == BASE_E_EXACT:
        result = ct.exp(difference)
    elif UNIT == BASE_E:
        result = ct.exp2(difference * LOG2_E, flush_to_zero=True)
    else:
        result = ct.exp2(difference, flush_to_zero=True)
    return result


def fold_in(
    scores: ct.Tile,
    values: ct.Tile,
    peak: ct.Tile,
    mass: ct.Tile,
    total: ct.Tile,
    MASK: int,
    UNIT: int,
) -> tuple[ct.Tile, ct.Tile, ct.Tile]:
    """Merge one tile of scores into the running (maximum, sum of weights, weighted values)."""
    higher = ct.maximum(peak, ct.max(scores, axis=1, keepdims=True))
    base = higher
    if MASK != UNMASKED:
        # A row that has attended nowhere so far: -inf - -inf would be NaN.
        base = ct.where(higher == -math.inf, 0.0, higher)
    weights = power(scores - base, UNIT)
    decay = power(peak - base, UNIT)
    mass = mass * decay + ct.sum(weights, axis=1, keepdims=True)
    total = product(weights.astype(values.dtype), values, total * decay)
    return higher, mass, total


def normalised(total: ct.Tile, mass: ct.Tile, MASK: int) -> ct.Tile:
    """Weighted values over the sum of weights; where a row attends nowhere, 0 as SDPA or NaN."""
    result = total / mass
    if MASK in (ATTEND, ADDED):
        result = ct.where(mass == 0.0, 0.0, result)
    return result
