"""Floating-point formats and rounding to them, for what torch's own casts do not do.

`rounded(x, format, mode)` rounds float64 values to any format, in any of cuTile's modes:
RN to nearest, ties to even; RA to nearest, ties away from zero; RZ towards zero; RM down; RP up.
Formats of 8 bits and less saturate at their largest number, as NVIDIA's conversions do.
"""

from __future__ import annotations

import dataclasses

import torch


@dataclasses.dataclass(frozen=True)
class Format:
    """exponent, mantissa: widths in bits. bias: of the exponent.

    largest:   largest finite number.
    nan, inf:  their codes without sign, or None where the format has none.
    subnormal: whether exponent code 0 has no implicit leading 1.
    """

    exponent: int
    mantissa: int
    bias: int
    largest: float
    nan: int | None = None
    inf: int | None = None
    signed: bool = True
    subnormal: bool = True

    @property
    def lowest_exponent(self) -> int:
        return 1 - self.bias if self.subnormal else -self.bias

    @property
    def saturates(self) -> bool:
        return self.exponent + self.mantissa <= 8


def _ieee(exponent: int, mantissa: int) -> Format:
    bias = 2 ** (exponent - 1) - 1
    inf = (2**exponent - 1) << mantissa
    return Format(exponent, mantissa, bias, (2.0 - 2.0**-mantissa) * 2.0**bias, inf + 1, inf)


FORMATS = {
    "float32": _ieee(8, 23),
    "float16": _ieee(5, 10),
    "bfloat16": _ieee(8, 7),
    "tfloat32": _ieee(8, 10),
    "float8_e5m2": dataclasses.replace(_ieee(5, 2), nan=0x7F),
    "float8_e4m3fn": Format(4, 3, 7, 448.0, nan=0x7F),
    "float8_e8m0fnu": Format(8, 0, 127, 2.0**127, nan=0xFF, signed=False, subnormal=False),
    "float8_e5m3fnu": Format(5, 3, 15, 1.75 * 2.0**16, nan=0xFF, signed=False),
    "float4_e2m1fn": Format(2, 1, 1, 6.0),
}


def rounded(x: torch.Tensor, target: Format, mode: str = "RN") -> torch.Tensor:
    """x, float64, as numbers of `target`; still float64."""
    _, exponent = torch.frexp(x)
    step = (exponent - 1).clamp_min(target.lowest_exponent) - target.mantissa
    result = _whole(x * power_of_two(-step), mode) * power_of_two(step)
    if not target.subnormal:
        result = result.clamp_min(2.0**target.lowest_exponent)
    result = torch.where(result.abs() > target.largest, _overflow(result, target, mode), result)
    if target.saturates:
        result = torch.where(x.isinf(), x.sign() * target.largest, result)
        lost = target.largest if target.nan is None else torch.nan
        return torch.where(x.isnan(), lost, result)
    return torch.where(x.isfinite(), result, x)


def power_of_two(exponent: torch.Tensor) -> torch.Tensor:
    """2 ** exponent, exactly (torch's ldexp goes through pow); exponents of normal float64."""
    return ((exponent.long() + 1023) << 52).view(torch.float64)


def _whole(x: torch.Tensor, mode: str) -> torch.Tensor:
    """x rounded to a whole number."""
    if mode == "RN":
        return x.round()
    if mode == "RZ":
        return x.trunc()
    if mode == "RM":
        return x.floor()
    if mode == "RP":
        return x.ceil()
    if mode == "RA":
        below = x.abs().floor()
        return torch.copysign(below + (x.abs() - below >= 0.5), x)
    raise ValueError(f"no rounding mode {mode}")


def _overflow(x: torch.Tensor, target: Format, mode: str) -> torch.Tensor:
    """What becomes of finite values beyond the largest number."""
    finite = torch.copysign(torch.full_like(x, target.largest), x)
    if target.saturates or mode == "RZ":
        return finite
    infinite = torch.copysign(torch.full_like(x, torch.inf), x)
    if mode in ("RN", "RA"):
        return infinite
    return torch.where((x > 0) == (mode == "RP"), infinite, finite)


def step_towards(nearest: torch.Tensor, error: torch.Tensor, mode: str) -> torch.Tensor:
    """A result in another rounding mode, from the nearest one.

    nearest: rounded to nearest, of a float dtype up to 32 bits.
    error:   exact result minus `nearest`; only its sign counts.
    """
    if mode in ("RN", "FULL", "APPROX"):
        return nearest
    up = error > 0
    down = error < 0
    if mode == "RP":
        down = torch.zeros_like(down)
    elif mode == "RM":
        up = torch.zeros_like(up)
    elif mode == "RZ":
        up, down = up & (nearest < 0), down & (nearest > 0)
    else:
        raise ValueError(f"no rounding mode {mode}")
    return torch.where(
        up, _neighbour(nearest, 1), torch.where(down, _neighbour(nearest, -1), nearest)
    )


def _neighbour(x: torch.Tensor, direction: int) -> torch.Tensor:
    """The next number of x's dtype above (1) or below (-1) it; infinity steps to the largest."""
    integer = torch.int32 if x.element_size() == 4 else torch.int16
    code = x.view(integer)
    outward = (x > 0) == (direction > 0)
    stepped = (code + torch.where(outward, 1, -1).to(integer)).view(x.dtype)
    smallest = torch.full_like(code, 1).view(x.dtype) * direction
    return torch.where(x == 0, smallest, stepped)
