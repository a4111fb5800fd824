"""The RMSNorm arithmetic of three ops, with every rounding mode of their references.

The modes differ in where a low-precision value is rounded, see `patterns/rms_norm.py`:
ONCE, BEFORE_WEIGHT, SCALE, EVERY_OP. In float32 they are the same function.
"""

from __future__ import annotations

import cuda.tile as ct

from tile_backend.lowering.kernels.rows import load_vector, promoted, rounded, row_mean

ONCE, BEFORE_WEIGHT, SCALE, EVERY_OP = range(4)
ROUNDING = {
    "once": ONCE,
    "before_weight": BEFORE_WEIGHT,
    "scale": SCALE,
    "every_op": EVERY_OP,
    "divided": BEFORE_WEIGHT,
}
"""A norm that divides by a rounded root is computed in float32, which is never further off."""


def inverse_rms(
    pieces: tuple[ct.Tile, ...], eps: float, N: int, ROUNDING: int, dtype: ct.DType
) -> ct.Tile:
    """rsqrt(mean(x ** 2) + eps) of each row, float32 [ROWS, 1]; `dtype` is x's."""
    squares: tuple[ct.Tile, ...] = ()
    for piece in ct.static_iter(pieces):
        square = piece * piece
        if ROUNDING == EVERY_OP:
            square = rounded(square, dtype)
        squares = (*squares, square)
    mean = row_mean(squares, N)
    if ROUNDING == EVERY_OP:
        mean = rounded(mean, dtype)
    shifted = mean + eps
    if ROUNDING == EVERY_OP:
        shifted = rounded(shifted, dtype)
    scale = ct.rsqrt(shifted)
    if ROUNDING in (EVERY_OP, SCALE):
        scale = rounded(scale, dtype)
    return scale


def gain_of(
    weight: ct.Array, j: int, offset: float, BLOCK: int, ROUNDING: int, OFFSET: bool
) -> ct.Tile:
    """Piece j of offset + weight, float32 [1, BLOCK], rounded to weight's dtype unless ONCE."""
    gain = load_vector(weight, j, BLOCK)
    if OFFSET:
        gain = gain + offset
        if ROUNDING != ONCE:
            gain = rounded(gain, weight.dtype)
    return gain[None, :]


def normed_piece(
    piece: ct.Tile,
    scale: ct.Tile,
    weight: ct.Array,
    j: int,
    offset: float,
    ROUNDING: int,
    WEIGHTED: bool,
    OFFSET: bool,
    dtype: ct.DType,
) -> ct.Tile:
    """Piece j of the normalised rows, float32, not yet rounded to the result's dtype."""
    unit = piece * scale
    if WEIGHTED:
        if ROUNDING != ONCE:
            unit = rounded(unit, dtype)
        unit = unit * gain_of(weight, j, offset, piece.shape[1], ROUNDING, OFFSET)
    return unit


def normed_dtype(
    dtype: ct.DType, weight_dtype: ct.DType, ROUNDING: int, WEIGHTED: bool
) -> ct.DType:
    """The dtype RMSNorm returns for x of `dtype`."""
    if WEIGHTED and ROUNDING != ONCE:
        dtype = promoted(dtype, weight_dtype)
    return dtype
