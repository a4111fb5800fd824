"""Blocks that get in each other's way: what one writes, no other may read or write differently.

Blocks run in no order and at once, so either makes results a matter of luck. Segments that a kernel
writes to remember per element who wrote it and who read it. Atomic operations may meet each other;
blocks that have passed an acquiring operation (`synchronised`) are taken to be ordered.
"""

from __future__ import annotations

import torch

from tile_backend.lowering.interpreter.bits import INTEGER
from tile_backend.lowering.interpreter.faults import FaultKind
from tile_backend.lowering.interpreter.memory import Place

NOBODY, SEVERAL = -1, -2
ATOMIC = -3
"""Written atomically by block b is ATOMIC - b; read or written atomically by more is SEVERAL."""


class Conflict(Exception):
    """Two blocks met. `accessing` does (`verb`) what `other` has done (`did`), at one element.

    element: in words. accessing, other: block numbers, SEVERAL where there is no one to name.
    """

    def __init__(
        self, kind: FaultKind, element: str, blocks: tuple[int, int], verb: str, did: str
    ) -> None:
        super().__init__(kind, element, blocks)
        self.kind, self.element, self.verb, self.did = kind, element, verb, did
        self.accessing, self.other = blocks


def check_read(place: Place) -> None:
    """Raise Conflict if another block has written an element."""
    writer = place.read(place.segment.shadow("writer", place.itemsize))
    foreign = (writer != NOBODY) & (writer != place.who) & (writer != _atomically(place.who))
    _raise(place, foreign, writer, FaultKind.FOREIGN_READ, "reads", "has written it")
    readers = place.segment.shadow("reader", place.itemsize)
    old = place.read(readers)
    first = (old == NOBODY) | (old == place.who)
    place.write(readers, torch.where(first, place.who, SEVERAL).to(torch.int32))
    if isinstance(place.who, torch.Tensor):  # one element may occur twice in a list
        place.write(readers, torch.where(place.read(readers) == place.who, place.who, SEVERAL))


def check_write(place: Place, before: torch.Tensor, values: torch.Tensor) -> None:
    """Raise Conflict where others read the element, or wrote something else there.

    before, values: raw memory, as it was and as it will be.
    """
    writers = place.segment.shadow("writer", place.itemsize)
    writer = place.read(writers)
    foreign = (writer != NOBODY) & (writer != place.who) & differ(before, values)
    _raise(place, foreign, writer, FaultKind.WRITE_CONFLICT, "writes", "wrote another value there")
    _check_readers(place)
    place.write(writers, place.who)


def check_atomic(place: Place) -> None:
    """Raise Conflict where others accessed the element, and not atomically."""
    writers = place.segment.shadow("writer", place.itemsize)
    writer = place.read(writers)
    foreign = (writer >= 0) & (writer != place.who)
    did = "wrote it, not atomically"
    _raise(place, foreign, writer, FaultKind.WRITE_CONFLICT, "updates", did)
    _check_readers(place)
    mine = _atomically(place.who)
    alone = (writer == NOBODY) | (writer == place.who) | (writer == mine)
    place.write(writers, torch.where(alone, mine, SEVERAL).to(torch.int32))
    if isinstance(mine, torch.Tensor):
        place.write(writers, torch.where(place.read(writers) == mine, mine, SEVERAL))


def check_written(place: Place, flat: torch.Tensor, values: torch.Tensor) -> None:
    """After a write: raise Conflict if one operation has put different values into one element."""
    if not isinstance(place.who, torch.Tensor):
        return
    lost = differ(place.read(flat), values)
    if bool(lost.any()):
        position = _first(lost)
        winner = int(place.read(place.segment.shadow("writer", place.itemsize))[position])
        blocks = int(place.who[position]), winner
        element = place.describe(position)
        did = "writes another value there at the same time"
        raise Conflict(FaultKind.WRITE_CONFLICT, element, blocks, "writes", did)


def differ(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Where raw values differ as bits."""
    integer = INTEGER[one.element_size()]
    return _bits(one, integer) != _bits(other.expand(one.shape), integer)


def _bits(raw: torch.Tensor, integer: torch.dtype) -> torch.Tensor:
    return raw.contiguous().view(integer)


def _check_readers(place: Place) -> None:
    reader = place.read(place.segment.shadow("reader", place.itemsize))
    foreign = (reader != NOBODY) & (reader != place.who)
    _raise(place, foreign, reader, FaultKind.FOREIGN_READ, "writes", "has read it")


def _atomically(who: int | torch.Tensor) -> int | torch.Tensor:
    return ATOMIC - who


def _first(mask: torch.Tensor) -> tuple[int, ...]:
    return tuple(int(i) for i in mask.nonzero()[0])


def _raise(
    place: Place, found: torch.Tensor, others: torch.Tensor, kind: FaultKind, verb: str, did: str
) -> None:
    if isinstance(place.exempt, torch.Tensor):
        found = found & ~place.exempt
    elif place.exempt:
        return
    if not bool(found.any()):
        return
    position = _first(found)
    other = int(others[position])
    who = int(place.who[position]) if isinstance(place.who, torch.Tensor) else place.who
    blocks = (who, ATOMIC - other if other <= ATOMIC else other)
    raise Conflict(kind, place.describe(position), blocks, verb, did)
