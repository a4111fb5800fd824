"""Arrays, views of them, and lists of arrays.

An array is its address, sizes and strides as they flow through the IR, so slices and items of lists
are arrays like any other.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from tile_backend.lowering.interpreter import transfer, undetermined
from tile_backend.lowering.interpreter.faults import FaultKind
from tile_backend.lowering.interpreter.frame import Frame
from tile_backend.lowering.interpreter.program import ArrayType, Op, Value, ViewType
from tile_backend.lowering.interpreter.registry import runs


class ArrayView(NamedTuple):
    """What a value of array or view type holds: tensors of shape () or [lanes]."""

    base: torch.Tensor
    sizes: tuple[torch.Tensor, ...]
    strides: tuple[torch.Tensor, ...]

    def name(self, frame: Frame) -> str:
        """The array argument that this is, or is a part of."""
        address = of_lane(self.base, 0)
        for segment in frame.run.memory.segments:
            for argument in segment.arrays:
                if argument.address <= address <= argument.end:
                    return argument.name
        return "an array"


def of_lane(per_lane: torch.Tensor, lane: int) -> int:
    """A lane's number, of a tensor of shape () or [lanes]."""
    return int(per_lane[lane] if per_lane.dim() else per_lane)


@runs("make_tensor_view")
def make_tensor_view(frame: Frame, op: Op) -> None:
    """An array from its parts."""
    for value in (op["base_ptr"], *op["shape"], *op["strides"]):
        undetermined.refuse(frame, op, value, "is an address, size or stride")
    view = ArrayView(
        frame.get(op["base_ptr"]),
        tuple(frame.get(n) for n in op["shape"]),
        tuple(frame.get(n) for n in op["strides"]),
    )
    frame.put(op.result, view)


@runs("make_partition_view", "make_strided_view", "make_gather_scatter_view")
def make_view(frame: Frame, op: Op) -> None:
    """A view is its array; how it is cut into tiles is in its type."""
    frame.put(op.result, frame.values[op["array"].slot])


@runs("num_tiles")
def num_tiles(frame: Frame, op: Op) -> None:
    """Tiles along each tile axis: those that start inside the array."""
    view: Value = op["view"]
    assert isinstance(view.type, ViewType), f"{view.name} is a view"
    array: ArrayView = frame.values[view.slot]
    for d, result in enumerate(op.results):
        size = array.sizes[view.type.order[d]]
        tiles = -torch.div(-size, view.type.steps[d], rounding_mode="floor")
        frame.put(result, tiles.to(result.element.held))


@runs("make_list_view")
def make_list_view(frame: Frame, op: Op) -> None:
    """A list of arrays: the address of its records, and their number."""
    frame.put(op.result, (frame.get(op["base_ptr"]), frame.get(op["length"])))


@runs("get_array_list_item")
def get_array_list_item(frame: Frame, op: Op) -> None:
    """Address, sizes and strides of one array, from its record of int64 numbers."""
    undetermined.refuse(frame, op, op["index"], "is used as an index")
    base, length = frame.values[op["x"].slot]
    index = frame.get(op["index"]).long()
    outside = frame.alive((index < 0) | (index >= length))
    if bool(outside.any()):
        text = f"an index into a list of {int(length)} arrays is outside"
        raise frame.fault(FaultKind.OUT_OF_BOUNDS, op, text, outside)
    kind = op["x"].type
    assert isinstance(kind, ArrayType), f"{op['x'].name} is a list"
    words = len(op.results)
    segment = transfer.segment_of(frame, op, int(base), int(base) + int(length) * words * 8 - 1)
    first = (int(base) - segment.address) // 8
    records = segment.typed(torch.int64)[first : first + int(length) * words].reshape(-1, words)
    safe = index.clamp(0, int(length) - 1)
    for word, result in enumerate(op.results):
        frame.put(result, records[safe, word].to(result.element.held))
