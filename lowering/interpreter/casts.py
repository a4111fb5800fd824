"""Conversions between element types: by value, by bits, and to bytes."""

from __future__ import annotations

import torch

from tile_backend.lowering.interpreter import bits, integers
from tile_backend.lowering.interpreter.elements import Element
from tile_backend.lowering.interpreter.formats import FORMATS, rounded
from tile_backend.lowering.interpreter.frame import Frame
from tile_backend.lowering.interpreter.program import Op
from tile_backend.lowering.interpreter.registry import runs


@runs("tile_astype")
def astype(frame: Frame, op: Op) -> None:
    """By value. A float that fits no integer of the target is undetermined."""
    x, source, target = frame.get(op["x"]), op["x"].element, op.result.element
    if source.is_float and not target.is_float:
        result, outside = _to_integer(x, target)
        frame.put(op.result, result)
        if bool(outside.any()):
            frame.mark(op.result, outside, f"the conversion to {target} at {op.source}")
    elif source.is_float:
        frame.put(op.result, to_float(x, target, op["rounding_mode"] or "RN"))
    elif target.is_float:
        exact = integers.to_float(x, source, target.held)
        narrow = target.kind == "narrow"
        frame.put(op.result, to_float(exact, target, "RN") if narrow else exact)
    elif target.kind == "bool":
        frame.put(op.result, x != 0)
    else:
        frame.put(op.result, bits.wrapped(x.to(target.held), target))


def to_float(x: torch.Tensor, target: Element, mode: str) -> torch.Tensor:
    """Floats rounded to another float type."""
    if target.kind == "float" and (mode == "RN" or target.name == "float64"):
        return x.to(target.held)
    return rounded(x.double(), FORMATS[target.name], mode).to(target.held)


def _to_integer(x: torch.Tensor, target: Element) -> tuple[torch.Tensor, torch.Tensor]:
    if target.kind == "bool":
        whole = x.trunc()
        return whole == 1, ~((whole == 0) | (whole == 1))
    return integers.from_float(x, target)


@runs("tile_bitcast")
def bitcast(frame: Frame, op: Op) -> None:
    """By bits, between types of one width."""
    tile = bits.reinterpreted(frame.get(op["x"]), op["x"].element, op.result.element)
    frame.put(op.result, tile)


@runs("tile_pack")
def pack(frame: Frame, op: Op) -> None:
    """A tile of rank 1 as bytes."""
    frame.put(op.result, bits.to_bytes(frame.get(op["x"]), op["x"].element))


@runs("tile_unpack")
def unpack(frame: Frame, op: Op) -> None:
    """Bytes as a tile of rank 1."""
    frame.put(op.result, bits.from_bytes(frame.get(op["x"]), op.result.element))
