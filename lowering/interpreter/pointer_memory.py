"""Pointers: arithmetic on addresses, and loads and stores of the elements there."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from tile_backend.lowering.interpreter import bits, indices, transfer, undetermined
from tile_backend.lowering.interpreter.elements import Element
from tile_backend.lowering.interpreter.faults import FaultKind, KernelFault
from tile_backend.lowering.interpreter.frame import Frame, lanes_first
from tile_backend.lowering.interpreter.memory import Place, Segment
from tile_backend.lowering.interpreter.program import Op
from tile_backend.lowering.interpreter.registry import runs


def pointee(op: Op) -> Element:
    """What the op's pointer points at."""
    element: Element | None = op["pointer"].element.pointee
    assert element is not None, f"{op['pointer'].name} is a pointer"
    return element


@runs("pointer_offset")
def pointer_offset(frame: Frame, op: Op) -> None:
    """Addresses, moved by a number of elements."""
    offset = frame.get(op["offset"]).long() * pointee(op).itemsize
    frame.put(op.result, frame.get(op["pointer"]) + offset)


@runs("reinterpret_pointer", "address_space_cast", "foreign_pointer_cast")
def same_address(frame: Frame, op: Op) -> None:
    """There is one address space here, and an address has no type."""
    frame.put(op.result, frame.get(op["pointer"]))


def chosen_elements(frame: Frame, op: Op) -> torch.Tensor | None:
    """The elements that an op with `pointer` and `mask` accesses, or None for all."""
    undetermined.refuse(frame, op, op["pointer"], "is used as an address", _mask(frame, op))
    if op["mask"] is not None:
        undetermined.refuse(frame, op, op["mask"], "decides whether memory is accessed")
    mask = _mask(frame, op)
    if frame.live is not None:
        alive = lanes_first(frame.live, op["pointer"].rank)
        mask = alive if mask is None else mask & alive
    indices.check(frame, op, mask)
    return mask


def _mask(frame: Frame, op: Op) -> torch.Tensor | None:
    return None if op["mask"] is None else frame.get(op["mask"])


def places(
    frame: Frame, op: Op, addresses: torch.Tensor, chosen: torch.Tensor | None
) -> Iterator[tuple[Place, torch.Tensor]]:
    """Where the chosen addresses are, segment by segment, and which of them they are.

    addresses: [lanes, ...], or of any shape at one lane. The second result is a bool of that shape.
    """
    itemsize = pointee(op).itemsize
    if chosen is None:
        chosen = torch.ones((), dtype=torch.bool)
    left = chosen.expand(addresses.shape)
    while bool(left.any()):
        lowest = int(addresses[left].min())
        segment = frame.run.memory.segment(lowest, lowest + itemsize - 1)
        if segment is None:
            raise _stray(frame, op, left & (addresses == lowest))
        here = left & (addresses < segment.address + segment.size)
        _check_elements(frame, op, segment, addresses[here], here)
        elements = torch.div(addresses[here] - segment.address, itemsize, rounding_mode="floor")
        shape = tuple(addresses.shape) if frame.lanes > 1 else (1, *addresses.shape)
        who, exempt = transfer.owners(frame, segment, shape, here.reshape(shape))
        yield Place(segment, itemsize, who, exempt, elements=elements), here
        left = left & ~here


def _check_elements(
    frame: Frame, op: Op, segment: Segment, addresses: torch.Tensor, here: torch.Tensor
) -> None:
    """Every address is that of an element of an array argument."""
    found = torch.zeros_like(addresses, dtype=torch.bool)
    for array in segment.arrays:
        found |= array.contains(addresses)
    if not bool(found.all()):
        wrong = torch.zeros_like(here)
        wrong[here] = ~found
        raise _stray(frame, op, wrong)


def _stray(frame: Frame, op: Op, wrong: torch.Tensor) -> KernelFault:
    arrays = [a for s in frame.run.memory.segments for a in s.arrays]
    names = ", ".join(f"`{a.name}` {list(a.sizes)}" for a in arrays)
    text = f"an address, with no bounds check, is that of no element of {names}"
    varying = wrong if wrong.dim() > op["pointer"].rank else None
    return frame.fault(FaultKind.BAD_ADDRESS, op, text, varying)


def spread(frame: Frame, tile: torch.Tensor, rank: int) -> torch.Tensor:
    """A tile with the lanes first, unless there is one lane."""
    if frame.lanes == 1 or tile.dim() > rank:
        return tile
    return tile.expand(frame.lanes, *tile.shape)


@runs("load_pointer")
def load_pointer(frame: Frame, op: Op) -> None:
    """See ct.gather; what is masked off and has no padding value is undetermined."""
    element, result = pointee(op), op.results[0]
    chosen = chosen_elements(frame, op)
    addresses = frame.get(op["pointer"])
    if chosen is not None:
        addresses = addresses.expand(torch.broadcast_shapes(addresses.shape, chosen.shape))
    padding = op["padding_value"]
    tile = torch.full(addresses.shape, undetermined.fill(element.held), dtype=element.held)
    if padding is not None:
        tile = frame.get(padding)
        tile = tile.expand(torch.broadcast_shapes(addresses.shape, tile.shape)).clone()
        addresses = addresses.expand(tile.shape)
    if frame.lanes > 1 and addresses.dim() == result.rank:  # uniform: who reads is not one block
        addresses, tile = (t.expand(frame.lanes, *t.shape) for t in (addresses, tile))
        tile = tile.clone()
    assert element.stored is not None, f"{element} is in memory"
    for place, here in places(frame, op, addresses, chosen):
        tile[here] = bits.held(transfer.read(frame, op, place, element.stored), element)
    frame.put(result, tile)
    frame.put(op.results[1], None)
    if padding is None and op["mask"] is not None:
        origin = f"the masked load at {op.source}, which has no padding_value"
        frame.mark(result, ~frame.get(op["mask"]), origin)
    elif padding is not None and padding.slot in frame.marks and op["mask"] is not None:
        mark = frame.marks[padding.slot]
        for origin in mark.origins:
            frame.mark(result, mark.mask & ~frame.get(op["mask"]), origin)


@runs("store_pointer")
def store_pointer(frame: Frame, op: Op) -> None:
    """See ct.scatter."""
    element, rank = pointee(op), op["pointer"].rank
    chosen = chosen_elements(frame, op)
    undetermined.refuse(frame, op, op["value"], "is stored", _mask(frame, op))
    raw = spread(frame, bits.stored(frame.get(op["value"]), element), rank)
    addresses = spread(frame, frame.get(op["pointer"]), rank)
    for place, here in places(frame, op, addresses, chosen):
        transfer.write(frame, op, place, raw[here])
    frame.put(op.result, None)
