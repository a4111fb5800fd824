"""Row math inside kernels: pieces of rows in registers, sums, and one rounding step.

A block holds ROWS whole rows as a tuple of pieces [ROWS, BLOCK], loaded once. Elements beyond the
N features read as 0 and are not stored. Everything here is inlined into a kernel by cuTile; a
function has one return at its end, because cuTile turns an earlier one into a loop with a break.
"""

from __future__ import annotations

import cuda.tile as ct

MAX_PIECES = 16
"""Pieces held per row: 32768 features in 8 warps are 128 values per thread."""


def rounded(tile: ct.Tile, dtype: ct.DType) -> ct.Tile:
    """The float32 value a tile has after being rounded to `dtype`."""
    return tile.astype(dtype).astype(ct.float32)


def promoted(one: ct.DType, two: ct.DType) -> ct.DType:
    """torch.promote_types for float32, bfloat16 and float16."""
    return ct.static_eval(one if one == two else ct.float32)


def row_index(x: ct.Array) -> tuple[int, ...]:
    """The block's tile index in front of the feature dimension, see row_layout.row_grid."""
    at: tuple[int, ...] = (ct.bid(0),)
    if x.ndim > 2:
        at = (ct.bid(1), *at)
    if x.ndim > 3:
        at = (ct.bid(2), *at)
    return at


def load_piece(x: ct.Array, at: tuple[int, ...], j: int, ROWS: int, BLOCK: int) -> ct.Tile:
    """Piece j of the rows at tile index `at`, float32 [ROWS, BLOCK]."""
    shape = ct.static_eval((1,) * (x.ndim - 2) + (ROWS, BLOCK))
    # A row is read once: TMA would force a warp-specialised kernel and cost occupancy.
    piece = ct.load(x, (*at, j), shape, padding_mode=ct.PaddingMode.ZERO, allow_tma=False)
    return piece.reshape((ROWS, BLOCK)).astype(ct.float32)


def load_rows(
    x: ct.Array, at: tuple[int, ...], N: int, ROWS: int, BLOCK: int
) -> tuple[ct.Tile, ...]:
    """All pieces of the rows at tile index `at`."""
    pieces: tuple[ct.Tile, ...] = ()
    for j in ct.static_iter(range(-(-N // BLOCK))):
        pieces = (*pieces, load_piece(x, at, j, ROWS, BLOCK))
    return pieces


def store_piece(out: ct.Array, at: tuple[int, ...], j: int, piece: ct.Tile) -> None:
    """Round piece j of the rows at `at` to out's dtype and store it."""
    shape = ct.static_eval((1,) * (out.ndim - 2) + tuple(piece.shape))
    ct.store(out, (*at, j), piece.astype(out.dtype).reshape(shape), allow_tma=False)


def load_vector(vector: ct.Array, j: int, BLOCK: int) -> ct.Tile:
    """Piece j of a [N] weight as float32 [BLOCK]."""
    piece = ct.load(vector, (j,), (BLOCK,), padding_mode=ct.PaddingMode.ZERO, allow_tma=False)
    return piece.astype(ct.float32)


def row_mean(pieces: tuple[ct.Tile, ...], N: int) -> ct.Tile:
    """Mean over the N features, [ROWS, 1]. Lanes add piece by piece; one reduction at the end."""
    total = pieces[0]
    for piece in ct.static_iter(pieces[1:]):
        total = total + piece
    return ct.sum(total, axis=1, keepdims=True) / N


def part_of_row(N: int) -> float:
    """A power of two, which rounds nothing: sums of N features times it do not overflow."""
    part: float = ct.static_eval(0.5 ** (N - 1).bit_length())
    return part


def row_mean_of_any(pieces: tuple[ct.Tile, ...], N: int) -> ct.Tile:
    """row_mean, also where the sum of the features would overflow: parts of it are added."""
    share = part_of_row(N)
    total = pieces[0] * share
    for piece in ct.static_iter(pieces[1:]):
        total = total + piece * share
    return ct.sum(total, axis=1, keepdims=True) / (N * share)


def within_row(piece: ct.Tile, j: int, N: int) -> ct.Tile:
    """Piece j with the elements beyond the N features set to 0."""
    BLOCK = piece.shape[1]
    if (j + 1) * BLOCK > N:
        feature = j * BLOCK + ct.arange(BLOCK, dtype=ct.int32)
        piece = ct.where(feature[None, :] < N, piece, 0.0)
    return piece
