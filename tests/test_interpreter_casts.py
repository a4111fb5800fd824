"""Casts and bitcasts in the interpreter, between every pair of types."""

from __future__ import annotations

import math
from typing import Any

import cuda.tile as ct
import pytest
import torch

from tests.interpreter_elements import FLOATS, INTEGERS, numbers, run, tensor, wrapped
from tile_backend.lowering.interpreter.faults import KernelFault

TYPES = (*INTEGERS, *FLOATS, torch.bool)


def unchanged(x: Any) -> Any:
    """The kernel casts the result to the type of its output."""
    return x


@pytest.mark.parametrize("source", TYPES, ids=str)
def test_casts_keep_what_fits(source: torch.dtype) -> None:
    for target in TYPES:
        values = [0, 1, 3, 100] if torch.bool not in (source, target) else [0, 1, 1, 0]
        x = tensor(values, source) if source in INTEGERS else torch.tensor(values).to(source)
        found = run(unchanged, x, dtype=target)
        got = numbers(found) if target in INTEGERS else found.double().tolist()
        assert got == values, f"to {target}"


def test_casts_of_integers_wrap() -> None:
    values = [300, -1, 2**31, 255]
    for target in INTEGERS:
        found = run(unchanged, tensor(values, torch.int64), dtype=target)
        assert numbers(found) == [wrapped(v, target) for v in values]


def test_large_unsigned_integers_become_floats_and_come_back() -> None:
    values = [2**64 - 1, 2**63, 2**63 + 2**10, 5]
    found = run(unchanged, tensor(values, torch.uint64), dtype=torch.float64)
    assert found.tolist() == [float(v) for v in values]
    back = run(unchanged, torch.tensor([2.0**63, 3.7]).double(), dtype=torch.uint64)
    assert numbers(back) == [2**63, 3]


@pytest.mark.parametrize("value", (math.nan, math.inf, 300.0, -1.0))
def test_a_float_that_fits_no_integer_is_undetermined(value: float) -> None:
    with pytest.raises(KernelFault, match="the conversion to uint8 at"):
        run(unchanged, torch.tensor([1.0, value]), dtype=torch.uint8)
    assert run(unchanged, torch.tensor([1.9, 0.2]), dtype=torch.uint8).tolist() == [1, 0]


def through_tfloat32(x: Any) -> Any:
    return ct.astype(ct.astype(x, ct.tfloat32), ct.float32)


def test_tfloat32_has_ten_bits_of_mantissa() -> None:
    x = torch.tensor([1 + 2**-10, 1 + 2**-11, 1 + 3 * 2**-11, 1 + 2**-11 + 2**-20])
    assert run(through_tfloat32, x).tolist() == [1 + 2**-10, 1.0, 1 + 2**-9, 1 + 2**-10]


def half_towards_zero(x: Any) -> Any:
    return ct.astype(x, ct.float16, rounding_mode=ct.RoundingMode.RZ)


def test_casts_round_in_the_mode_asked_for() -> None:
    x = torch.tensor([1 + 2**-11, 1 + 2**-10 + 2**-12, -(1 + 2**-11), 1e6])
    found = run(half_towards_zero, x, dtype=torch.float16)
    assert found.tolist() == [1.0, 1 + 2**-10, -1.0, 65504.0]


SMALL = (torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e8m0fnu)


@pytest.mark.parametrize("dtype", SMALL, ids=str)
def test_small_floats_are_read_and_written_exactly(dtype: torch.dtype) -> None:
    codes = torch.arange(256, dtype=torch.uint8)
    exact = codes.view(dtype).float()
    found = run(unchanged, codes.view(dtype), dtype=torch.float32)
    assert torch.equal(found.nan_to_num(0.3), exact.nan_to_num(0.3))
    if dtype is torch.float8_e8m0fnu:  # is converted to by directed rounding only
        return
    finite = exact.isfinite()
    back = run(unchanged, exact.nan_to_num(0, 0, 0), dtype=dtype)
    assert torch.equal(back.view(torch.uint8)[finite], codes[finite])


def test_small_floats_round_to_even_and_saturate() -> None:
    x = torch.tensor([17.0, 19.0, 1e4, -1e9])
    found = run(unchanged, x, dtype=torch.float8_e4m3fn)
    assert found.float().tolist() == [16.0, 20.0, 448.0, -448.0]


def scale_up(x: Any) -> Any:
    return ct.astype(x, ct.float8_e8m0fnu, rounding_mode=ct.RoundingMode.RP)


def through_four_bits(x: Any) -> Any:
    return ct.astype(ct.astype(x, ct.float4_e2m1fn), ct.float32)


def test_scales_and_four_bit_floats() -> None:
    x = torch.tensor([3.0, 4.0, 0.3, 1e-45])
    found = run(scale_up, x, dtype=torch.float8_e8m0fnu)
    assert found.float().tolist() == [4.0, 4.0, 0.5, 2.0**-127]
    y = torch.tensor([0.2, 0.25, 0.8, -1.3, 2.5, 3.6, 5.0, 100.0])
    assert run(through_four_bits, y).tolist() == [0.0, 0.0, 1.0, -1.5, 2.0, 4.0, 4.0, 6.0]


def as_bits(x: Any) -> Any:
    return ct.bitcast(x, ct.uint32)


def from_bits(x: Any) -> Any:
    return ct.bitcast(x, ct.float32)


def test_bitcasts_keep_bits() -> None:
    x = torch.tensor([1.0, -2.5, math.inf, 0.0])
    found = run(as_bits, x, dtype=torch.uint32)
    assert torch.equal(found.view(torch.int32), x.view(torch.int32))
    assert torch.equal(run(from_bits, found, dtype=torch.float32), x)


def bytes_and_back(x: Any) -> Any:
    return ct.unpack_from_bytes(ct.pack_to_bytes(x), ct.float32)


def nibbles_and_back(x: Any) -> Any:
    packed = ct.pack_to_bytes(ct.astype(x, ct.float4_e2m1fn))
    return ct.astype(ct.unpack_from_bytes(packed, ct.float4_e2m1fn), ct.float32)


def test_tiles_are_packed_into_bytes() -> None:
    x = torch.tensor([1.0, -2.5, math.inf, 0.1])
    assert torch.equal(run(bytes_and_back, x), x)
    y = torch.tensor([0.5, -6.0, 3.0, 1.5])
    assert torch.equal(run(nibbles_and_back, y), y)
