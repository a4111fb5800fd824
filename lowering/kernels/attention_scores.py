"""Scores of a tile of queries and a tile of keys inside a kernel: product, soft cap, mask.

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
UNMASKED, ATTEND, ADDED = range(3)
"""Mask tensor: none; bool, true where a key is seen; floating-point and added."""
BASE_2, BASE_E, BASE_E_EXACT = range(3)
ZERO = ct.PaddingMode.ZERO
APPROX = ct.RoundingMode.APPROX


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


def bounded(x: ct.Tile, UNIT: int) -> ct.Tile:
    """tanh(x), for a soft cap: it multiplies the result, so that what counts is absolute error.

    Approximate tanh is wrong by 2**-11, which a cap of 50 makes 2 % of a weight: more than bfloat16
    rounds away. 1 - 2 / (exp(2 x) + 1) is wrong by some 2**-23 in place of float32's rounding.
    """
    if UNIT == BASE_E_EXACT:
        result = ct.tanh(x)
    else:
        powers = ct.exp2(x * (2 * LOG2_E), flush_to_zero=True)
        result = 1.0 - ct.truediv(2.0, powers + 1.0, rounding_mode=APPROX)
    return result
