"""Values as bits: in memory, as constants, reinterpreted, packed into bytes.

`held` and `stored` convert between a raw tensor of dtype `Element.stored` and the values that a
tile holds, `Element.held`.
"""

from __future__ import annotations

import functools
from typing import Any

import torch

from tile_backend.lowering.interpreter.elements import Element
from tile_backend.lowering.interpreter.formats import FORMATS, Format, power_of_two, rounded
from tile_backend.lowering.interpreter.program import Value

INTEGER = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""A dtype of that many bytes, to look at bits."""


def held(raw: torch.Tensor, element: Element) -> torch.Tensor:
    """Memory's bits as values."""
    if element.kind == "narrow":
        return decode(raw, element)
    if element.kind == "unsigned" and element.held != element.stored:
        return torch.bitwise_and(raw.to(element.held), 2**element.bits - 1)
    return raw


def stored(values: torch.Tensor, element: Element) -> torch.Tensor:
    """Values as memory's bits."""
    if element.kind == "narrow":
        return encode(values, element)
    assert element.stored is not None, f"{element} is not stored"
    return values.to(element.stored)


def wrapped(values: torch.Tensor, element: Element) -> torch.Tensor:
    """Integers after an operation: modulo 2 ** bits where they are held in a wider type."""
    if element.kind == "unsigned" and element.bits in (16, 32):
        return torch.bitwise_and(values, 2**element.bits - 1)
    return values


def constant(value: Any, result: Value) -> torch.Tensor:
    """The tile of a typed constant: one number for all elements, or nested tuples."""
    element = result.element
    if isinstance(value, tuple):
        flat = [_number(each, element) for each in _flattened(value)]
        return torch.tensor(flat, dtype=element.held).reshape(result.shape)
    return torch.full(result.shape, _number(value, element), dtype=element.held)


def _flattened(value: Any) -> list[Any]:
    if not isinstance(value, tuple):
        return [value]
    return [number for each in value for number in _flattened(each)]


def _number(value: Any, element: Element) -> Any:
    if element.kind == "narrow":
        exact = torch.tensor(float(value), dtype=torch.float64)
        return float(rounded(exact, FORMATS[element.name]))
    if element.is_integer or element.kind == "pointer":
        wide = int(value) % 2**element.bits
        top = element.kind != "unsigned" or element.bits == 64
        return wide - 2**element.bits if top and wide >= 2 ** (element.bits - 1) else wide
    return value


@functools.cache
def _codes(target: Format) -> torch.Tensor:
    """The finite numbers without sign, float32, in order: number i has code i."""
    count = 2 ** (target.exponent + target.mantissa)
    codes = torch.arange(count, dtype=torch.float64)
    exponent = (codes / 2**target.mantissa).floor()
    fraction = codes / 2**target.mantissa - exponent
    normal = (1 + fraction) * power_of_two(exponent - target.bias)
    small = fraction * 2.0 ** (1 - target.bias)
    numbers = torch.where(exponent == 0, small, normal) if target.subnormal else normal
    return numbers[numbers <= target.largest].float()


def decode(raw: torch.Tensor, element: Element) -> torch.Tensor:
    """Codes, uint8, as float32."""
    target = FORMATS[element.name]
    width = target.exponent + target.mantissa
    magnitude = raw.int() & (2**width - 1)
    finite = _codes(target)
    result = finite[magnitude.clamp_max(len(finite) - 1)]
    result = torch.where(magnitude < len(finite), result, torch.nan)
    if target.inf is not None:
        result = torch.where(magnitude == target.inf, torch.inf, result)
    if target.signed:
        result = torch.where((raw.int() >> width) & 1 == 1, -result, result)
    return result


def encode(values: torch.Tensor, element: Element) -> torch.Tensor:
    """Numbers of the format, float32, as codes in uint8."""
    target = FORMATS[element.name]
    code = torch.searchsorted(_codes(target), values.abs().contiguous())
    if target.inf is not None:
        code = torch.where(values.isinf(), target.inf, code)
    if target.nan is not None:
        code = torch.where(values.isnan(), target.nan, code)
    if target.signed:
        code = code | (values.signbit().to(code.dtype) << (target.exponent + target.mantissa))
    return code.to(torch.uint8)


def reinterpreted(values: torch.Tensor, source: Element, target: Element) -> torch.Tensor:
    """bitcast between elements of equal width."""
    assert target.stored is not None, f"{target} has no bits of its own"
    return held(stored(values, source).contiguous().view(target.stored), target)


def to_bytes(values: torch.Tensor, element: Element) -> torch.Tensor:
    """The last axis as bytes, little-endian; of two 4-bit ones the first is low."""
    if element.bits == 4:
        codes = encode(values, element)
        return codes[..., 0::2] | (codes[..., 1::2] << 4)
    return stored(values, element).contiguous().view(torch.uint8)


def from_bytes(raw: torch.Tensor, element: Element) -> torch.Tensor:
    """The inverse of to_bytes."""
    if element.bits == 4:
        codes = torch.stack((raw & 15, raw >> 4), dim=-1)
        return decode(codes.flatten(-2), element)
    assert element.stored is not None, f"{element} has no bytes of its own"
    return held(raw.contiguous().view(element.stored), element)
