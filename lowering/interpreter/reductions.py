"""Reductions and scans along one axis, in the tile's own type, in an order of their own.

Pairs are combined in a fixed tree, so results do not depend on how many blocks run together. A body
that is one addition, product, minimum or maximum runs directly; any other runs as a kernel body of
its own, with one lane per pair of elements. A GPU chooses another tree: floating-point sums differ
by rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from tile_backend.lowering.interpreter import control, undetermined
from tile_backend.lowering.interpreter.elementwise import FLOAT, INTEGER, extreme, flushed
from tile_backend.lowering.interpreter.frame import Frame
from tile_backend.lowering.interpreter.program import Block, Op, Value
from tile_backend.lowering.interpreter.registry import runs

Combine = Callable[[list[torch.Tensor], list[torch.Tensor]], list[torch.Tensor]]


class ElementFrame(Frame):
    """Runs the body on pairs of elements: each is a lane. Values from outside keep their block's.

    per_lane: elements per lane of the outer frame.
    """

    def __init__(self, outer: Frame, per_lane: int) -> None:
        super().__init__(outer.run, outer.blocks.repeat_interleave(per_lane))
        self.outer, self.times = outer, per_lane
        self.live = None if outer.live is None else outer.live.repeat_interleave(per_lane)

    def get(self, value: Value) -> torch.Tensor:
        own = self.values[value.slot]
        if own is not None:
            return super().get(value)
        tile = self.outer.get(value)
        return tile.repeat_interleave(self.times, 0) if self.outer.varies(value) else tile


def operands(frame: Frame, op: Op, by_lane: bool) -> tuple[list[torch.Tensor], int]:
    """The operands with the lanes first (if any varies, or `by_lane`), and the axis in them."""
    lead = frame.lanes > 1 and (by_lane or any(frame.varies(x) for x in op["xs"]))
    tiles = [frame.per_lane(x) if lead else frame.get(x) for x in op["xs"]]
    return tiles, op["axis"] + lead


def simple(op: Op) -> Op | None:
    """The op that is all of the body: it combines both parameters, rounding to nearest."""
    body: Block = op["body"]
    first = body.ops[0]
    if len(body.ops) == 2 and first.opcode == "raw_binary_arith" and len(op["xs"]) == 1:
        known = first["fn"] in ("add", "mul", "min", "max")
        plain = first["rounding_mode"] in (None, "RN")
        if known and plain and {first["lhs"], first["rhs"]} == set(body.parameters):
            return first
    return None


def combiner(frame: Frame, op: Op) -> Combine:
    """What the body does to left and right operands."""
    first = simple(op)
    if first is not None:
        return lambda left, right: [directly(first, left[0], right[0])]
    return lambda left, right: _run_body(frame, op["body"], left, right)


def directly(op: Op, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """A raw_binary_arith on tensors of any shape."""
    element = op.result.element
    if element.is_integer:
        return INTEGER[op["fn"]](left, right, element)
    if op["flush_to_zero"]:
        left, right = flushed(left), flushed(right)
    if op["fn"] in ("min", "max"):
        result = extreme(op["fn"], left, right, op["propagate_nan"])
    else:
        result = FLOAT[op["fn"]](left, right)
    return flushed(result) if op["flush_to_zero"] else result


def _run_body(
    frame: Frame, body: Block, left: list[torch.Tensor], right: list[torch.Tensor]
) -> list[torch.Tensor]:
    """The body's parameters alternate: left and right of the first operand, then of the second."""
    shape, elements = left[0].shape, left[0].numel()
    inner = ElementFrame(frame, elements // frame.lanes)
    pairs = zip(body.parameters[0::2], body.parameters[1::2], strict=True)
    for (one, other), x, y in zip(pairs, left, right, strict=True):
        inner.put(one, x.reshape(-1))
        inner.put(other, y.reshape(-1))
    return [tile.expand(elements).reshape(shape) for tile in control.yielded(inner, body)]


@runs("tile_reduce")
def tile_reduce(frame: Frame, op: Op) -> None:
    """The axis goes. A simple body takes halves of it, any other neighbours, which keeps order."""
    first = simple(op)
    tiles, axis = operands(frame, op, by_lane=first is None)
    if first is not None and first["fn"] in ("min", "max") and first.result.element.is_float:
        found = _extreme(first, tiles[0], axis)
        if found is not None:
            frame.put(op.result, found)
            return
    combine = combiner(frame, op)
    while tiles[0].shape[axis] > 1:
        half = tiles[0].shape[axis] // 2
        if first is not None:
            sides = [(t.narrow(axis, 0, half), t.narrow(axis, half, half)) for t in tiles]
        else:
            pairs = [t.unflatten(axis, (half, 2)) for t in tiles]
            sides = [(t.select(axis + 1, 0), t.select(axis + 1, 1)) for t in pairs]
        tiles = combine([left for left, _ in sides], [right for _, right in sides])
    for result, tile in zip(op.results, tiles, strict=True):
        frame.put(result, tile.squeeze(axis))


def _extreme(first: Op, tile: torch.Tensor, axis: int) -> torch.Tensor | None:
    """A maximum or minimum needs no tree, unless there is a NaN to ignore."""
    found = tile.amax(axis) if first["fn"] == "max" else tile.amin(axis)
    if not first["propagate_nan"] and bool(found.isnan().any()):
        return None
    return flushed(found) if first["flush_to_zero"] else found


@runs("tile_scan")
def tile_scan(frame: Frame, op: Op) -> None:
    """Inclusive prefixes, in log2(n) steps: each element takes in the one `step` before it."""
    tiles, axis = operands(frame, op, by_lane=simple(op) is None)
    combine = combiner(frame, op)
    if op["reverse"]:
        tiles = [t.flip(axis) for t in tiles]
    size, step = tiles[0].shape[axis], 1
    while step < size:
        before = [t.narrow(axis, 0, size - step).contiguous() for t in tiles]
        here = [t.narrow(axis, step, size - step).contiguous() for t in tiles]
        combined = combine(before, here)
        kept = [t.narrow(axis, 0, step) for t in tiles]
        tiles = [torch.cat(pair, axis) for pair in zip(kept, combined, strict=True)]
        step *= 2
    for result, tile in zip(op.results, tiles, strict=True):
        frame.put(result, tile.flip(axis) if op["reverse"] else tile)


@undetermined.spreads("tile_reduce")
def _any_along(frame: Frame, op: Op) -> Sequence[torch.Tensor]:
    masks = [undetermined.mask_of(frame, x) for x in op["xs"]]
    lead = max(mask.dim() - x.rank for mask, x in zip(masks, op["xs"], strict=True))
    found = torch.stack(torch.broadcast_tensors(*masks)).any(0)
    return [found.any(op["axis"] + lead)] * len(op.results)


@undetermined.spreads("tile_scan")
def _any_before(frame: Frame, op: Op) -> Sequence[torch.Tensor]:
    masks = [undetermined.mask_of(frame, x) for x in op["xs"]]
    axis = op["axis"] - op["xs"][0].rank
    found = torch.stack(torch.broadcast_tensors(*masks)).any(0).int()
    if op["reverse"]:
        found = found.flip(axis)
    found = found.cummax(axis).values.bool()
    return [found.flip(axis) if op["reverse"] else found] * len(op.results)
