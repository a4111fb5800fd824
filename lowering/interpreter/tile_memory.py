"""Loads and stores of tiles.

Where all lanes access the same elements, and for large tiles, the existing part of a tile is one
strided box per lane; small tiles go element by element for all lanes at once.
"""

from __future__ import annotations

import dataclasses
import math

import torch

from tile_backend.lowering.interpreter import bits, transfer, undetermined
from tile_backend.lowering.interpreter.elements import Element
from tile_backend.lowering.interpreter.frame import Frame
from tile_backend.lowering.interpreter.memory import Place
from tile_backend.lowering.interpreter.program import Op, Padding
from tile_backend.lowering.interpreter.races import SEVERAL
from tile_backend.lowering.interpreter.registry import runs
from tile_backend.lowering.interpreter.window import Window, window_of

LARGE = 4096
"""Elements of a tile from which one copy per lane costs less than a list of addresses."""

PADDING = {
    Padding.ZERO: 0.0,
    Padding.NEG_ZERO: -0.0,
    Padding.NAN: math.nan,
    Padding.POS_INF: math.inf,
    Padding.NEG_INF: -math.inf,
}


def live_lanes(frame: Frame) -> list[int]:
    """The lanes that run."""
    if frame.live is None:
        return list(range(frame.lanes))
    return [int(lane) for lane in frame.live.nonzero()[:, 0]]


@runs("tile_load")
def tile_load(frame: Frame, op: Op) -> None:
    """See ct.load: elements outside the array are padding, undetermined ones are marked."""
    window = window_of(frame, op)
    element = window.type.element
    padding = PADDING.get(window.type.padding, undetermined.fill(element.held))
    if window.uniform and not window.has_list:
        tile, inside = _load_boxes(frame, op, window, live_lanes(frame)[:1], padding)
        tile, inside = tile[0], None if inside is None else inside[0]
    elif window.has_list or (math.prod(window.type.tile_shape) < LARGE and window.together(frame)):
        tile, inside = _load_listed(frame, op, window, padding)
    else:
        tile, inside = _load_boxes(frame, op, window, live_lanes(frame), padding)
    frame.put(op.results[0], tile)
    frame.put(op.results[1], None)
    if inside is not None and window.type.padding is Padding.UNDETERMINED:
        origin = f"the padding of the load at {op.source}, which has no padding_mode"
        frame.mark(op.results[0], ~inside, origin)
    transfer.acquire(frame, op["memory_order"])


def _load_boxes(
    frame: Frame, op: Op, window: Window, lanes: list[int], padding: float
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Tiles [frame lanes or 1, ...], and which elements exist (None: all)."""
    element, shape = window.type.element, window.type.tile_shape
    rows = 1 if len(lanes) == 1 and window.uniform else frame.lanes
    boxes = [window.box(frame, op, lane) for lane in lanes]
    tile = torch.empty(rows, *shape, dtype=element.held)
    inside = None
    if rows != len(lanes) or any(box is None or not box.whole for box in boxes):
        tile.fill_(padding)
        inside = torch.zeros(rows, *shape, dtype=torch.bool)
    for lane, box in zip(lanes, boxes, strict=True):
        if box is not None:
            place = _shared(frame, box.place) if rows == 1 else box.place
            raw = _read(frame, op, place, element)
            row = 0 if rows == 1 else lane
            tile[row][box.part] = bits.held(raw, element)
            if inside is not None:
                inside[row][box.part] = True
    return tile, inside


def _shared(frame: Frame, place: Place) -> Place:
    """The same place, read by all live lanes."""
    lanes = live_lanes(frame)
    if len(lanes) == 1:
        return place
    exempt = all(transfer.owner(frame, lane)[1] for lane in lanes)
    return dataclasses.replace(place, who=SEVERAL, exempt=exempt)


def _load_listed(
    frame: Frame, op: Op, window: Window, padding: float
) -> tuple[torch.Tensor, torch.Tensor | None]:
    element, shape = window.type.element, window.type.tile_shape
    found = window.listed(frame, op)
    full = (found.elements.shape[0], *shape)
    elements, chosen = found.elements.expand(full), found.chosen
    who, exempt = transfer.owners(frame, found.segment, full, chosen)
    if chosen is None:
        place = Place(found.segment, element.itemsize, who, exempt, elements=elements.reshape(-1))
        tile = bits.held(_read(frame, op, place, element), element).reshape(full)
    else:
        chosen = chosen.expand(full)
        place = Place(found.segment, element.itemsize, who, exempt, elements=elements[chosen])
        tile = torch.full(full, padding, dtype=element.held)
        tile[chosen] = bits.held(_read(frame, op, place, element), element)
    inside = None if found.inside is None else found.inside.expand(full)
    if frame.lanes == 1:
        return tile[0], None if inside is None else inside[0]
    return tile, inside


def _read(frame: Frame, op: Op, place: Place, element: Element) -> torch.Tensor:
    assert element.stored is not None, f"{element} is in memory"
    if op["memory_order"] not in transfer.UNORDERED:
        return place.read(place.segment.typed(element.stored))
    return transfer.read(frame, op, place, element.stored)


@runs("tile_store")
def tile_store(frame: Frame, op: Op) -> None:
    """See ct.store: elements outside the array are dropped."""
    window = window_of(frame, op)
    value = op["tile"]
    if value.slot in frame.marks:
        how = f"is stored in `{window.name}`"
        undetermined.refuse(frame, op, value, how, window.exists(frame))
    tile, varies = frame.get(value), frame.varies(value)
    raw = bits.stored(tile, window.type.element)
    small = math.prod(window.type.tile_shape) < LARGE and window.together(frame)
    by_element = window.has_list or window.repeats
    if not by_element and window.uniform and not varies:
        _store_boxes(frame, op, window, raw, live_lanes(frame)[:1])
    elif by_element or window.uniform or small:
        _store_listed(frame, op, window, raw if varies else raw[None])
    else:
        _store_boxes(frame, op, window, raw, live_lanes(frame))
    frame.put(op.result, None)


def _store_boxes(frame: Frame, op: Op, window: Window, raw: torch.Tensor, lanes: list[int]) -> None:
    rank = len(window.axes)
    for lane in lanes:
        box = window.box(frame, op, lane)
        if box is not None:
            tile = raw[lane] if raw.dim() > rank else raw
            _write(frame, op, box.place, tile[box.part])


def _store_listed(frame: Frame, op: Op, window: Window, raw: torch.Tensor) -> None:
    """raw: [lanes or 1, *tile]."""
    found = window.listed(frame, op)
    full = (frame.lanes, *window.type.tile_shape)
    elements, values = found.elements.expand(full), raw.expand(full)
    chosen = None if found.chosen is None else found.chosen.expand(full)
    if chosen is None:
        elements, values = elements.reshape(-1), values.reshape(-1)
    else:
        elements, values = elements[chosen], values[chosen]
    who, exempt = transfer.owners(frame, found.segment, full, chosen)
    place = Place(found.segment, window.type.element.itemsize, who, exempt, elements=elements)
    _write(frame, op, place, values)


def _write(frame: Frame, op: Op, place: Place, raw: torch.Tensor) -> None:
    if op["memory_order"] in transfer.UNORDERED:
        transfer.write(frame, op, place, raw)
    else:
        transfer.note_atomic(frame, op, place)
        place.write(place.segment.typed(raw.dtype), raw)
