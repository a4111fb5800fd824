"""Integer arithmetic with the wrap-around, the signedness and the undefined cases of the kernel.

Unsigned 16 and 32 bit values are held in wider signed types and are brought back into range after
each operation; uint64 is held as the bit pattern in int64, so its order and its division are done
here. Nothing traps: division by zero gives something, and says where.
"""

from __future__ import annotations

import torch

from tile_backend.lowering.interpreter.bits import wrapped
from tile_backend.lowering.interpreter.elements import Element

LOWEST = torch.iinfo(torch.int64).min


def ordered(x: torch.Tensor, element: Element) -> torch.Tensor:
    """x, so that signed comparison orders it."""
    return x ^ LOWEST if element.name == "uint64" else x


def less(x: torch.Tensor, y: torch.Tensor, element: Element) -> torch.Tensor:
    """x < y."""
    return ordered(x, element) < ordered(y, element)


def add(x: torch.Tensor, y: torch.Tensor, element: Element) -> torch.Tensor:
    return wrapped(x + y, element)


def sub(x: torch.Tensor, y: torch.Tensor, element: Element) -> torch.Tensor:
    return wrapped(x - y, element)


def mul(x: torch.Tensor, y: torch.Tensor, element: Element) -> torch.Tensor:
    return wrapped(x * y, element)


def smaller(x: torch.Tensor, y: torch.Tensor, element: Element) -> torch.Tensor:
    return torch.where(less(x, y, element), x, y)


def larger(x: torch.Tensor, y: torch.Tensor, element: Element) -> torch.Tensor:
    return torch.where(less(x, y, element), y, x)


def undefined_quotients(y: torch.Tensor) -> torch.Tensor | None:
    """Where a division by y has no result; None for nowhere."""
    zero = y == 0
    return zero if bool(zero.any()) else None


def floordiv(x: torch.Tensor, y: torch.Tensor, element: Element) -> torch.Tensor:
    """Rounded down."""
    return _divided(x, y, element, "floor")[0]


def cdiv(x: torch.Tensor, y: torch.Tensor, element: Element) -> torch.Tensor:
    """Rounded up."""
    quotient, remainder = _divided(x, y, element, "floor")
    return wrapped(quotient + (remainder != 0).to(quotient.dtype), element)


def c_mod(x: torch.Tensor, y: torch.Tensor, element: Element) -> torch.Tensor:
    """The remainder of a division rounded towards zero."""
    return _divided(x, y, element, "trunc")[1]


def _divided(
    x: torch.Tensor, y: torch.Tensor, element: Element, rounding: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Quotient and remainder; 0 and x where y is 0."""
    zero = undefined_quotients(y)
    if zero is not None:
        y = torch.where(zero, 1, y)
    if element.name == "uint64" and bool(((x < 0) | (y < 0)).any()):
        quotient = _unsigned_quotient(x, y)
    else:
        # The processor traps on the lowest integer over -1, whose quotient wraps around.
        minus = (y == -1) if element.kind == "signed" else None
        if minus is None or not bool(minus.any()):
            quotient = torch.div(x, y, rounding_mode=rounding)
        else:
            safe = torch.div(x, torch.where(minus, 1, y), rounding_mode=rounding)
            quotient = torch.where(minus, -x, safe)
    remainder = x - quotient * y
    if zero is not None:
        quotient, remainder = torch.where(zero, 0, quotient), torch.where(zero, x, remainder)
    return quotient, remainder


def _unsigned_quotient(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """x / y as unsigned 64-bit numbers: half of x signed, doubled and corrected."""
    large = y < 0  # at least 2 ** 63: the quotient is 0 or 1
    divisor = torch.where(large, 1, y)
    half = torch.div((x >> 1) & ~LOWEST, divisor, rounding_mode="floor") << 1
    rest = x - half * divisor
    quotient = half + (ordered(rest, UINT64) >= ordered(divisor, UINT64)).long()
    return torch.where(large, (ordered(x, UINT64) >= ordered(y, UINT64)).long(), quotient)


UINT64 = Element("uint64", "unsigned", 64, torch.int64, torch.int64)


def left_shift(x: torch.Tensor, y: torch.Tensor, element: Element) -> torch.Tensor:
    """x << y; 0 where y is not within the width."""
    inside = (y >= 0) & (y < element.bits)
    shifted = x << torch.where(inside, y, 0)
    return wrapped(torch.where(inside, shifted, 0), element)


def right_shift(x: torch.Tensor, y: torch.Tensor, element: Element) -> torch.Tensor:
    """x >> y, with copies of the sign bit only for signed types."""
    inside = (y >= 0) & (y < element.bits)
    by = torch.where(inside, y, 0)
    shifted = x >> by
    if element.name == "uint64":
        kept = torch.where(by > 0, ~(torch.full_like(x, -1) << (64 - by).clamp_max(63)), -1)
        shifted = shifted & kept
    return torch.where(inside, shifted, torch.where(x < 0, -1, 0) if _signed(element) else 0)


def _signed(element: Element) -> bool:
    return element.kind == "signed"


def to_float(x: torch.Tensor, element: Element, dtype: torch.dtype) -> torch.Tensor:
    """Integers as floats, rounded to nearest."""
    if element.name != "uint64" or not bool((x < 0).any()):
        return x.to(dtype)
    # Halving keeps the lowest bit as a sticky one, so that rounding is that of the whole number.
    halved = ((x >> 1) & ~LOWEST) | (x & 1)
    return torch.where(x < 0, halved.to(dtype) * 2, x.to(dtype))


def from_float(x: torch.Tensor, element: Element) -> tuple[torch.Tensor, torch.Tensor]:
    """Floats as integers, rounded towards zero, and where they are out of range or NaN."""
    whole = x.double().trunc()
    low = -(2.0 ** (element.bits - 1)) if element.kind == "signed" else 0.0
    high = 2.0 ** (element.bits - (element.kind == "signed"))
    outside = ~((whole >= low) & (whole < high))
    whole = torch.where(outside, 0.0, whole)
    if element.name == "uint64":
        top = whole >= 2.0**63
        low_part = torch.where(top, whole - 2.0**63, whole).long()
        return torch.where(top, low_part ^ LOWEST, low_part), outside
    return whole.to(element.held), outside
