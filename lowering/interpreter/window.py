"""The window of an array that a tile covers.

A tile wholly outside its array, and one that is partly outside although `check_bounds=False`
promised otherwise, are faults.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import torch

from tile_backend.lowering.interpreter import transfer, undetermined
from tile_backend.lowering.interpreter.faults import FaultKind
from tile_backend.lowering.interpreter.frame import Frame, lanes_first
from tile_backend.lowering.interpreter.memory import Place, Segment
from tile_backend.lowering.interpreter.program import Op, Value, ViewType
from tile_backend.lowering.interpreter.views import ArrayView, of_lane


class Axis(NamedTuple):
    """One axis of a window. start: first element, () or [lanes]; or each element, with a last axis
    of `length`, where `listed`. size, stride: of the array's axis.
    """

    start: torch.Tensor
    length: int
    size: torch.Tensor
    stride: torch.Tensor
    listed: bool

    @property
    def uniform(self) -> bool:
        lanes = self.start.dim() - self.listed
        return max(lanes, self.size.dim(), self.stride.dim()) == 0

    @property
    def whole(self) -> torch.Tensor:
        """Whether all of its elements exist, () or [lanes]."""
        if self.listed:
            return ((self.start >= 0) & (self.start < self.size[..., None])).all(-1)
        return (self.start >= 0) & (self.start + self.length <= self.size)


class Box(NamedTuple):
    """The existing part of one lane's window: where it is in memory and in the tile."""

    place: Place
    part: tuple[slice, ...]
    whole: bool


class Listed(NamedTuple):
    """Elements of all lanes' windows, [lanes or 1, *tile]; `chosen` are those to access.

    chosen: None for all.  inside: those that exist, None for all.
    """

    segment: Segment
    elements: torch.Tensor
    chosen: torch.Tensor | None
    inside: torch.Tensor | None


@dataclasses.dataclass(frozen=True)
class Window:
    """The elements of an array that a tile covers, for all lanes."""

    name: str
    type: ViewType
    base: torch.Tensor
    axes: tuple[Axis, ...]

    @property
    def uniform(self) -> bool:
        """Whether all lanes have the same."""
        return self.base.dim() == 0 and all(axis.uniform for axis in self.axes)

    @property
    def has_list(self) -> bool:
        return any(axis.listed for axis in self.axes)

    def together(self, frame: Frame) -> bool:
        """Whether the windows of all lanes are in one storage: items of a list may not be."""
        if self.base.dim() == 0:
            return True
        lowest, highest = int(self.base.min()), int(self.base.max())
        return frame.run.memory.segment(lowest, highest) is not None

    @property
    def repeats(self) -> bool:
        """Whether a tile has one element of the array more than once."""
        return any(a.length > 1 and bool((a.stride == 0).any()) for a in self.axes)

    def box(self, frame: Frame, op: Op, lane: int) -> Box | None:
        """One lane's window; None where no element of it exists (an empty array)."""
        itemsize = self.type.element.itemsize
        address = of_lane(self.base, lane)
        lengths, strides, part = [], [], []
        for axis in self.axes:
            start, size, stride = (of_lane(t, lane) for t in (axis.start, axis.size, axis.stride))
            low, high = max(0, -start), min(axis.length, size - start)
            if high <= low:
                return None
            address += (start + low) * stride * itemsize
            lengths.append(high - low)
            strides.append(stride)
            part.append(slice(low, high))
        span = sum((n - 1) * s for n, s in zip(lengths, strides, strict=True))
        segment = transfer.segment_of(frame, op, address, address + (span + 1) * itemsize - 1)
        who, exempt = transfer.owner(frame, lane)
        offset = (address - segment.address) // itemsize
        place = Place(segment, itemsize, who, exempt, offset, lengths, strides)
        return Box(place, tuple(part), tuple(lengths) == self.type.tile_shape)

    def listed(self, frame: Frame, op: Op) -> Listed:
        """Every element of every live lane's window that exists, one by one."""
        rank, itemsize = len(self.axes), self.type.element.itemsize
        address = lanes_first(self.base, rank)
        inside: torch.Tensor | None = None
        for d, axis in enumerate(self.axes):
            along = axis.start if axis.listed else axis.start[..., None] + torch.arange(axis.length)
            shape = [-1] + [axis.length if k == d else 1 for k in range(rank)]
            address = address + (along * axis.stride[..., None] * itemsize).reshape(shape)
            whole = axis.whole if frame.live is None else axis.whole | ~frame.live
            if not bool(whole.all()):
                exists = ((along >= 0) & (along < axis.size[..., None])).reshape(shape)
                inside = exists if inside is None else inside & exists
        chosen = inside
        if frame.live is not None:
            alive = lanes_first(frame.live, rank)
            chosen = alive if chosen is None else chosen & alive
        if chosen is not None:
            full = torch.broadcast_shapes(address.shape, chosen.shape)
            address, chosen = address.expand(full), chosen.expand(full)
        used = address if chosen is None else address[chosen]
        if used.numel() == 0:
            segment = frame.run.memory.segments[0]
            return Listed(segment, address * 0, torch.zeros_like(address, dtype=torch.bool), inside)
        if not self.together(frame):
            raise frame.unsupported(op, "an access by listed elements to several arrays of a list")
        lowest, highest = int(used.min()), int(used.max()) + itemsize - 1
        segment = transfer.segment_of(frame, op, lowest, highest)
        elements = torch.div(address - segment.address, itemsize, rounding_mode="floor")
        return Listed(segment, elements, chosen, inside)

    def exists(self, frame: Frame) -> torch.Tensor:
        """Which elements exist, a bool that broadcasts to [lanes, *tile]."""
        rank, found = len(self.axes), torch.ones((), dtype=torch.bool)
        for d, axis in enumerate(self.axes):
            along = axis.start if axis.listed else axis.start[..., None] + torch.arange(axis.length)
            shape = [-1] + [axis.length if k == d else 1 for k in range(rank)]
            found = found & ((along >= 0) & (along < axis.size[..., None])).reshape(shape)
        return found


def window_of(frame: Frame, op: Op) -> Window:
    """The window that an op with `view` and `index` accesses, checked."""
    view: Value = op["view"]
    kind = view.type
    assert isinstance(kind, ViewType), f"{view.name} is a view"
    array: ArrayView = frame.values[view.slot]
    axes = []
    for d, index in enumerate(op["index"]):
        undetermined.refuse(frame, op, index, "is used as an index")
        axis = kind.order[d]
        start = frame.get(index).long() * kind.steps[d]
        size, stride = array.sizes[axis].long(), array.strides[axis].long()
        axes.append(Axis(start, kind.tile_shape[d], size, stride, d == kind.sparse))
    window = Window(array.name(frame), kind, array.base, tuple(axes))
    _check(frame, op, window)
    return window


def _check(frame: Frame, op: Op, window: Window) -> None:
    promised = op.fields.get("inbounds") or (False,) * len(window.axes)
    for d, (axis, unchecked) in enumerate(zip(window.axes, promised, strict=True)):
        if axis.listed:
            continue
        outside = frame.alive((axis.start >= axis.size) | (axis.start + axis.length <= 0))
        if bool(outside.any()):
            text = f"a tile of `{window.name}` lies wholly outside it: {_where(axis, d, outside)}"
            raise frame.fault(FaultKind.TILE_OUTSIDE, op, text, outside)
        if unchecked:
            partly = frame.alive(~axis.whole)
            if bool(partly.any()):
                text = (
                    f"check_bounds=False, and a tile of `{window.name}` is not inside it:"
                    f" {_where(axis, d, partly)}"
                )
                raise frame.fault(FaultKind.OUT_OF_BOUNDS, op, text, partly)


def _where(axis: Axis, d: int, lanes: torch.Tensor) -> str:
    lane = int(lanes.reshape(-1).nonzero()[0])
    start, size = of_lane(axis.start, lane), of_lane(axis.size, lane)
    return f"elements {start} to {start + axis.length - 1} of {size} along tile axis {d}"
