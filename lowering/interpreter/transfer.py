"""Moving raw values between memory and tiles, with the checks that every access shares.

An address must lie in an array argument; and in segments that the kernel writes to, blocks must
not meet (see `races`).
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from tile_backend.lowering.interpreter import races
from tile_backend.lowering.interpreter.faults import FaultKind, KernelFault
from tile_backend.lowering.interpreter.frame import Frame, block_index
from tile_backend.lowering.interpreter.memory import Place, Segment
from tile_backend.lowering.interpreter.program import Op

UNORDERED = ("WEAK", None)
"""Memory orders of ordinary accesses; the others are atomic."""
ACQUIRING = ("ACQUIRE", "ACQ_REL")


def segment_of(frame: Frame, op: Op, lowest: int, highest: int) -> Segment:
    """The segment of one array argument that has both byte addresses."""
    segment = frame.run.memory.segment(lowest, highest)
    if segment is not None and any(
        array.address <= lowest and highest < array.end for array in segment.arrays
    ):
        return segment
    names = [
        f"`{a.name}` of {a.end - a.address} bytes"
        for s in frame.run.memory.segments
        for a in s.arrays
    ]
    bytes_ = highest - lowest + 1
    raise frame.fault(
        FaultKind.BAD_ADDRESS,
        op,
        f"the access covers {bytes_} bytes that are in no array argument; there are"
        f" {', '.join(names) or 'none'}",
    )


def read(frame: Frame, op: Op, place: Place, dtype: torch.dtype) -> torch.Tensor:
    """Raw values; of a box a view of memory, to be copied by the caller."""
    if place.segment.tracked:
        _checked(frame, op, lambda: races.check_read(place))
    return place.read(place.segment.typed(dtype))


def write(frame: Frame, op: Op, place: Place, raw: torch.Tensor) -> None:
    """Store raw values, of a dtype of the memory's width."""
    flat = place.segment.typed(raw.dtype)
    if not place.segment.tracked:
        place.write(flat, raw)
        return
    before = place.read(flat)
    _checked(frame, op, lambda: races.check_write(place, before, raw))
    place.write(flat, raw)
    _checked(frame, op, lambda: races.check_written(place, flat, raw))


def note_atomic(frame: Frame, op: Op, place: Place) -> None:
    """Check that other blocks meet these elements atomically only."""
    if place.segment.tracked:
        _checked(frame, op, lambda: races.check_atomic(place))


def owners(
    frame: Frame, segment: Segment, shape: tuple[int, ...], chosen: torch.Tensor | None
) -> tuple[torch.Tensor | int, torch.Tensor | bool]:
    """`who` and `exempt` of a Place that lists the elements of [lanes, ...], or those chosen."""
    if not segment.tracked:
        return 0, True
    if shape[0] != frame.lanes:
        return races.SEVERAL, False

    def spread(per_lane: torch.Tensor) -> torch.Tensor:
        full = per_lane.reshape(-1, *(1,) * (len(shape) - 1)).expand(shape)
        return full.reshape(-1) if chosen is None else full[chosen]

    exempt = False if frame.synchronised is None else spread(frame.synchronised)
    return spread(frame.blocks.to(torch.int32)), exempt


def owner(frame: Frame, lane: int) -> tuple[int, bool]:
    """`who` and `exempt` of a box that one lane accesses."""
    exempt = frame.synchronised is not None and bool(frame.synchronised[lane])
    return int(frame.blocks[lane]), exempt


def acquire(frame: Frame, memory_order: str) -> None:
    """Note that the live lanes have passed an operation of this order."""
    if memory_order in ACQUIRING:
        passed = torch.ones(frame.lanes, dtype=torch.bool) if frame.live is None else frame.live
        old = frame.synchronised
        frame.synchronised = passed if old is None else old | passed


def _checked(frame: Frame, op: Op, check: Callable[[], None]) -> None:
    try:
        check()
    except races.Conflict as conflict:
        raise _fault(frame, op, conflict) from None


def _fault(frame: Frame, op: Op, conflict: races.Conflict) -> KernelFault:
    def name(number: int) -> str:
        return f"block {block_index(number, frame.run.grid)}" if number >= 0 else "another block"

    text = (
        f"{name(conflict.accessing)} {conflict.verb} {conflict.element}, and"
        f" {name(conflict.other)} {conflict.did}; blocks run in no order"
    )
    return KernelFault(conflict.kind, frame.run.program.kernel, op.source, text)
