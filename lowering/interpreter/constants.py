"""Constants, indices of blocks, and what the kernel promises or asserts about its values."""

from __future__ import annotations

import sys

import torch

from tile_backend.lowering.interpreter import undetermined
from tile_backend.lowering.interpreter.faults import FaultKind
from tile_backend.lowering.interpreter.frame import Frame
from tile_backend.lowering.interpreter.program import Op, TileType
from tile_backend.lowering.interpreter.registry import runs


@runs("typed_const")
def typed_const(frame: Frame, op: Op) -> None:
    """Assigned when the frame was made."""


@runs("make_dummy")
def make_dummy(frame: Frame, op: Op) -> None:
    """Stands for a variable that has no value on this path."""
    if isinstance(op.result.type, TileType):
        frame.put(op.result, torch.zeros(op.result.shape, dtype=op.result.element.held))
        every = torch.ones(op.result.shape, dtype=torch.bool)
        frame.mark(op.result, every, f"the variable without a value at {op.source}")


@runs("tile_arange")
def tile_arange(frame: Frame, op: Op) -> None:
    frame.put(op.result, torch.arange(op.result.shape[0]).to(op.result.element.held))


@runs("tile_bid")
def tile_bid(frame: Frame, op: Op) -> None:
    """The block's index along one axis."""
    x, y, _ = frame.run.grid
    number = frame.blocks if frame.lanes > 1 else frame.blocks[0]
    index = (number % x, number // x % y, number // (x * y))[op["axis"]]
    frame.put(op.result, index.to(torch.int32))


@runs("tile_num_blocks")
def tile_num_blocks(frame: Frame, op: Op) -> None:
    frame.put(op.result, torch.tensor(frame.run.grid[op["axis"]], dtype=torch.int32))


@runs("assume_div_by")
def assume_div_by(frame: Frame, op: Op) -> None:
    """The compiler relies on it, so it has to hold."""
    x, divisor = frame.get(op["x"]), op["divisor"]
    broken = _for_lanes(frame, op, x % divisor != 0)
    if bool(broken.any()):
        wrong = int(x[broken][0]) if x.dim() else int(x)
        pointer = op["x"].element.kind == "pointer"
        what = f"an address is {wrong % divisor} beyond" if pointer else f"{wrong} is not"
        text = f"`{op['x'].name}` is promised to be divisible by {divisor}; {what} a multiple of it"
        raise frame.fault(FaultKind.DIVISIBILITY, op, text, broken)
    frame.put(op.result, x)


@runs("assume_bounded")
def assume_bounded(frame: Frame, op: Op) -> None:
    x, low, high = frame.get(op["x"]), op["lower_bound"], op["upper_bound"]
    broken = torch.zeros_like(x, dtype=torch.bool)
    if low is not None:
        broken |= x < low
    if high is not None:
        broken |= x > high
    broken = _for_lanes(frame, op, broken)
    if bool(broken.any()):
        text = f"`{op['x'].name}` is promised to be in [{low}, {high}], and is not"
        raise frame.fault(FaultKind.BOUND, op, text, broken)
    frame.put(op.result, x)


def _for_lanes(frame: Frame, op: Op, broken: torch.Tensor) -> torch.Tensor:
    """Without dead lanes; assumptions are about scalars."""
    return frame.alive(broken) if broken.dim() else broken


@runs("assert")
def assertion(frame: Frame, op: Op) -> None:
    undetermined.refuse(frame, op, op["cond"], "is asserted")
    condition = frame.per_lane(op["cond"]).flatten(1) if frame.lanes > 1 else frame.get(op["cond"])
    failed = ~condition.all(1) if frame.lanes > 1 else ~condition.all()
    failed = frame.alive(failed) if frame.lanes > 1 else failed
    if bool(failed.any()):
        raise frame.fault(FaultKind.ASSERTION, op, op["message"] or "assertion failed", failed)


@runs("make_token", "join_tokens")
@runs("grid_dependency_control_wait", "grid_dependency_control_launch_dependents")
def ordering(frame: Frame, op: Op) -> None:
    """Operations of a block run in order here, and launches one after the other."""
    frame.put(op.result, None)


@runs("tile_printf")
def tile_printf(frame: Frame, op: Op) -> None:
    """Prints to stdout, block by block; the elements of a tile as nested lists."""
    for value in op["args"]:
        undetermined.refuse(frame, op, value, "is printed")
    for lane in range(frame.lanes):
        if frame.live is None or bool(frame.live[lane]):
            numbers = iter([_lane_of(frame, value, lane) for value in op["args"]])
            sys.stdout.write(formatted(op["format"], [n.tolist() for n in numbers]))
    frame.put(op.result, None)


def _lane_of(frame: Frame, value: object, lane: int) -> torch.Tensor:
    tile = frame.get(value)  # type: ignore[arg-type]
    return tile[lane] if frame.varies(value) else tile  # type: ignore[arg-type]


def formatted(text: str, arguments: list[object]) -> str:
    """C's printf; a conversion applies to every element of a nested list."""
    pieces, rest = [], list(arguments)
    position = 0
    while position < len(text):
        if text[position] != "%":
            pieces.append(text[position])
            position += 1
        elif text[position : position + 2] == "%%":
            pieces.append("%")
            position += 2
        else:
            end = position + 1
            while not text[end].isalpha() or text[end] in "hljztL":
                end += 1
            conversion = "".join(c for c in text[position : end + 1] if c not in "hljztL")
            pieces.append(_converted(conversion, rest.pop(0)))
            position = end + 1
    return "".join(pieces)


def _converted(conversion: str, value: object) -> str:
    if isinstance(value, list):
        return f"[{', '.join(_converted(conversion, each) for each in value)}]"
    if conversion[-1] in "aA" and isinstance(value, float):
        return value.hex()
    return conversion.replace("i", "d").replace("u", "d") % (value,)
