"""Atomic operations: read, modify and write as one step.

Where one operation names an element more than once, the updates happen one after the other, in the
order of blocks and of elements: one of the orders that a GPU may choose.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from tile_backend.lowering.interpreter import bits, integers, transfer, undetermined
from tile_backend.lowering.interpreter.elements import Element
from tile_backend.lowering.interpreter.frame import Frame
from tile_backend.lowering.interpreter.memory import Place
from tile_backend.lowering.interpreter.pointer_memory import (
    chosen_elements,
    places,
    pointee,
    spread,
)
from tile_backend.lowering.interpreter.program import Op
from tile_backend.lowering.interpreter.registry import runs
from tile_backend.lowering.interpreter.window import window_of

Combine = Callable[[torch.Tensor, torch.Tensor, Element], torch.Tensor]
"""Old and given values -> new values."""


def _unsigned(pick: str) -> Combine:
    def combine(old: torch.Tensor, new: torch.Tensor, element: Element) -> torch.Tensor:
        less = integers.less(old, new, element)
        return torch.where(less if pick == "min" else ~less, old, new)

    return combine


MODES: dict[str, Combine] = {
    "ADD_INT": lambda old, new, element: bits.wrapped(old + new, element),
    "ADD_FLOAT": lambda old, new, element: old + new,
    "MAX_SIGNED_INT": lambda old, new, element: torch.maximum(old, new),
    "MIN_SIGNED_INT": lambda old, new, element: torch.minimum(old, new),
    "MAX_UNSIGNED_INT": _unsigned("max"),
    "MIN_UNSIGNED_INT": _unsigned("min"),
    "BITWISE_AND": lambda old, new, element: old & new,
    "BITWISE_OR": lambda old, new, element: old | new,
    "BITWISE_XOR": lambda old, new, element: old ^ new,
    "EXCHANGE": lambda old, new, element: new,
}


def update(
    frame: Frame,
    op: Op,
    place: Place,
    element: Element,
    given: Sequence[torch.Tensor],
    combine: Callable[..., torch.Tensor],
) -> torch.Tensor:
    """Store `combine(old, *given)` into a listed place; the old values. given: [n] each."""
    assert place.elements is not None, "atomics list their elements"
    assert element.stored is not None, f"{element} is in memory"
    flat = place.segment.typed(element.stored)
    old = bits.held(flat[place.elements], element)
    turns = _turns(place.elements)
    for turn in range(int(turns.max()) + 1 if turns.numel() else 0):
        now = turns == turn
        old[now] = bits.held(flat[place.elements[now]], element)
        new = combine(old[now], *(values[now] for values in given))
        flat[place.elements[now]] = bits.stored(new, element)
    transfer.note_atomic(frame, op, place)
    return old


def _turns(elements: torch.Tensor) -> torch.Tensor:
    """How many entries before each one name the same element."""
    order = torch.argsort(elements, stable=True)
    ordered = elements[order]
    position = torch.arange(len(elements))
    starts = torch.ones(len(elements), dtype=torch.bool)
    starts[1:] = ordered[1:] != ordered[:-1]
    first = torch.where(starts, position, 0).cummax(0).values if len(elements) else position
    turns = torch.empty_like(position)
    turns[order] = position - first
    return turns


@runs("tile_atomic_rmw")
def tile_atomic_rmw(frame: Frame, op: Op) -> None:
    """See ct.atomic_add and its kin; the result is what was there before."""
    mode, element = frame.known(op, MODES, "mode"), pointee(op)
    _run(frame, op, ("update",), lambda old, new: mode(old, new, element))


@runs("tile_atomic_cas")
def tile_atomic_cas(frame: Frame, op: Op) -> None:
    """See ct.atomic_cas: compares bits."""

    def exchange(old: torch.Tensor, expected: torch.Tensor, desired: torch.Tensor) -> torch.Tensor:
        integer = bits.INTEGER[old.element_size()]
        return torch.where(old.view(integer) == expected.view(integer), desired, old)

    _run(frame, op, ("expected", "desired"), exchange)


def _run(frame: Frame, op: Op, names: Sequence[str], combine: Callable[..., torch.Tensor]) -> None:
    """combine: old values, then those of the operands called `names` -> new values."""
    element, rank = pointee(op), op["pointer"].rank
    chosen = chosen_elements(frame, op)
    for name in names:
        undetermined.refuse(frame, op, op[name], "is stored", chosen)
    given = [spread(frame, frame.get(op[name]), rank) for name in names]
    addresses = spread(frame, frame.get(op["pointer"]), rank)
    before = torch.full(addresses.shape, undetermined.fill(element.held), dtype=element.held)
    for place, here in places(frame, op, addresses, chosen):
        before[here] = update(frame, op, place, element, [g[here] for g in given], combine)
    frame.put(op.results[0], before)
    frame.put(op.results[1], None)
    if op["mask"] is not None:
        origin = f"the masked atomic at {op.source}"
        frame.mark(op.results[0], ~frame.get(op["mask"]), origin)
    transfer.acquire(frame, op["memory_order"])


@runs("tile_atomic_red_view")
def tile_atomic_red_view(frame: Frame, op: Op) -> None:
    """See TiledView.atomic_store_add and its kin: elements outside the array are dropped."""
    window = window_of(frame, op)
    if op["update"].slot in frame.marks:
        undetermined.refuse(frame, op, op["update"], "is stored", window.exists(frame))
    element, mode = window.type.element, frame.known(op, MODES, "mode")
    found = window.listed(frame, op)
    full = (frame.lanes, *window.type.tile_shape)
    given = frame.per_lane(op["update"]).expand(full)
    elements = found.elements.expand(full)
    chosen = torch.ones((), dtype=torch.bool) if found.chosen is None else found.chosen
    chosen = chosen.expand(full)
    who, exempt = transfer.owners(frame, found.segment, full, chosen)
    place = Place(found.segment, element.itemsize, who, exempt, elements=elements[chosen])
    update(frame, op, place, element, [given[chosen]], lambda old, new: mode(old, new, element))
    frame.put(op.result, None)
