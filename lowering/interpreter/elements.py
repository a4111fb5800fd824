"""Element types of tiles, and how torch holds their values.

A tile of element type E is a torch tensor of dtype `E.held`. torch computes with neither uint16 to
uint64 nor floats below 16 bits, so these are held in a wider type: unsigned integers as their value
(uint64 as its bit pattern in int64), narrow floats as float32. Memory has the type `E.stored`.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import torch

Kind = Literal["float", "narrow", "signed", "unsigned", "bool", "pointer"]


@dataclasses.dataclass(frozen=True)
class Element:
    """name: cuda-tile's. kind "narrow": a float that torch does not compute with.

    stored: a torch dtype of the same width; None for what is never in memory as such.
    pointee: what a pointer points at; its values are byte addresses.
    """

    name: str
    kind: Kind
    bits: int
    held: torch.dtype
    stored: torch.dtype | None
    pointee: Element | None = None

    @property
    def is_float(self) -> bool:
        return self.kind in ("float", "narrow")

    @property
    def is_integer(self) -> bool:
        return self.kind in ("signed", "unsigned")

    @property
    def itemsize(self) -> int:
        """Bytes per element in memory."""
        return (self.bits + 7) // 8

    def __str__(self) -> str:
        return self.name


def _elements() -> dict[str, Element]:
    rows: list[tuple[str, Kind, int, torch.dtype, torch.dtype | None]] = [
        ("bool_", "bool", 8, torch.bool, torch.bool),
        ("int8", "signed", 8, torch.int8, torch.int8),
        ("int16", "signed", 16, torch.int16, torch.int16),
        ("int32", "signed", 32, torch.int32, torch.int32),
        ("int64", "signed", 64, torch.int64, torch.int64),
        ("uint8", "unsigned", 8, torch.uint8, torch.uint8),
        ("uint16", "unsigned", 16, torch.int32, torch.int16),
        ("uint32", "unsigned", 32, torch.int64, torch.int32),
        ("uint64", "unsigned", 64, torch.int64, torch.int64),
        ("float16", "float", 16, torch.float16, torch.float16),
        ("bfloat16", "float", 16, torch.bfloat16, torch.bfloat16),
        ("float32", "float", 32, torch.float32, torch.float32),
        ("float64", "float", 64, torch.float64, torch.float64),
        ("tfloat32", "narrow", 19, torch.float32, None),
        ("float8_e4m3fn", "narrow", 8, torch.float32, torch.uint8),
        ("float8_e5m2", "narrow", 8, torch.float32, torch.uint8),
        ("float8_e8m0fnu", "narrow", 8, torch.float32, torch.uint8),
        ("float8_e5m3fnu", "narrow", 8, torch.float32, torch.uint8),
        ("float4_e2m1fn", "narrow", 4, torch.float32, None),
    ]
    return {row[0]: Element(*row) for row in rows}


ELEMENTS = _elements()


def pointer_to(pointee: Element) -> Element:
    """The element type of a pointer: a byte address in an int64."""
    return Element(f"pointer[{pointee}]", "pointer", 64, torch.int64, torch.int64, pointee)


def of_torch(dtype: torch.dtype) -> Element:
    """The element type of a torch tensor. Raises TypeError for one that a kernel cannot read."""
    name = "bool_" if dtype is torch.bool else str(dtype).removeprefix("torch.")
    if name not in ELEMENTS:
        raise TypeError(f"a kernel cannot read {dtype}")
    return ELEMENTS[name]
