"""sigmoid, gelu and erf inside kernels, on float32 tiles.

cuTile has no erf: two polynomials evaluate it, which join at |x| = 475/512.
"""

from __future__ import annotations

import math

import cuda.tile as ct

from tile_backend.lowering.kernels.rows import rounded

APPROX = ct.RoundingMode.APPROX
SQRT_2 = math.sqrt(2.0)
SQRT_HALF = math.sqrt(0.5)
SQRT_2_OVER_PI = math.sqrt(2.0 / math.pi)
CUBIC = 0.044715
INVERSE_SQRT_2_PI = 1.0 / math.sqrt(2.0 * math.pi)


def sigmoid(x: ct.Tile) -> ct.Tile:
    """1 / (1 + exp(-x)); the division is exact to 2 ULP of float32."""
    return ct.truediv(1.0, 1.0 + ct.exp(-x), rounding_mode=APPROX)


def erf(x: ct.Tile) -> ct.Tile:
    """The error function, within 1.1 ULP of float32 even where no multiply-add is fused.

    Coefficients: N. Juffa's minimax polynomials for erff.
    """
    t = ct.abs(x)
    s = x * x
    low = t * -1.72853470e-5 + 3.83197126e-4
    high = t * -3.88396438e-3 + 2.42546219e-2
    tail = low * s + high
    tail = tail * t - 1.06777877e-1
    tail = tail * t - 6.34846687e-1
    tail = tail * t - 1.28717512e-1
    tail = 1.0 - ct.exp(tail * t - t)
    centre = s * -5.96761703e-4 + 4.99119423e-3
    centre = centre * s - 2.67681349e-2
    centre = centre * s + 1.12819925e-1
    centre = centre * s - 3.76125336e-1
    centre = centre * s + 1.28379166e-1
    tail = ct.where(x < 0.0, -tail, tail)
    return ct.where(t > 475.0 / 512.0, tail, centre * x + x)


def gelu(x: ct.Tile) -> ct.Tile:
    """x * P(X <= x) for a standard normal X."""
    return 0.5 * x * (1.0 + erf(x * SQRT_HALF))


def gelu_every_op(x: ct.Tile, dtype: ct.DType) -> ct.Tile:
    """gelu written out, with each of its steps rounded to `dtype`."""
    inner = rounded(erf(rounded(x / SQRT_2, dtype)), dtype)
    return rounded(0.5 * x, dtype) * rounded(1.0 + inner, dtype)


def gelu_tanh(x: ct.Tile) -> ct.Tile:
    """0.5 * x * (1 + tanh(u)), where 0.5 * (1 + tanh(u)) is sigmoid(2 * u)."""
    return x * sigmoid(2.0 * SQRT_2_OVER_PI * (x + CUBIC * (x * x * x)))


def gelu_tanh_every_op(x: ct.Tile, dtype: ct.DType) -> ct.Tile:
    """gelu_tanh written out, with each of its steps rounded to `dtype`."""
    cube = rounded(CUBIC * rounded(x * x * x, dtype), dtype)
    inner = rounded(SQRT_2_OVER_PI * rounded(x + cube, dtype), dtype)
    bracket = rounded(1.0 + rounded(ct.tanh(inner), dtype), dtype)
    return rounded(rounded(0.5 * x, dtype) * bracket, dtype)


def gelu_parts(x: ct.Tile) -> tuple[ct.Tile, ct.Tile]:
    """P(X <= x) and the density at x: gelu is x times the first."""
    share = 0.5 * (1.0 + erf(x * SQRT_HALF))
    return share, ct.exp(-0.5 * (x * x)) * INVERSE_SQRT_2_PI


def gelu_tanh_parts(x: ct.Tile) -> tuple[ct.Tile, ct.Tile]:
    """What stands for them in gelu_tanh: sigmoid(2 * u), and its slope."""
    square = x * x
    twice = 2.0 * SQRT_2_OVER_PI * (x + CUBIC * (square * x))
    power = ct.exp(-ct.abs(twice))
    larger = ct.truediv(1.0, 1.0 + power, rounding_mode=APPROX)
    smaller = power * larger  # 1 - larger, without its cancellation
    inner = 2.0 * SQRT_2_OVER_PI * (1.0 + 3.0 * CUBIC * square)
    return ct.where(twice < 0.0, smaller, larger), smaller * larger * inner
