"""Undetermined elements, followed from where they arise to where they matter.

Padding that a load leaves open, a masked load without a padding value, an integer divided by zero:
such elements are marked, and marks spread through every op as NaN does, except where a `where`, a
mask or a shape op leaves them behind. One that is stored, that decides a branch or that becomes an
address is a fault. A value of 0 times an undetermined one is undetermined: it may be infinite.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from tile_backend.lowering.interpreter.faults import FaultKind
from tile_backend.lowering.interpreter.frame import Frame, Mark, lanes_first
from tile_backend.lowering.interpreter.program import Op, Value

FILL = 0x5A
"""What undetermined integers read as; floats read as NaN."""

Spread = Callable[[Frame, Op], "Sequence[torch.Tensor | None]"]
RULES: dict[str, Spread] = {}
"""Opcode -> masks of its results; an opcode without a rule is element-wise."""


def spreads(*opcodes: str) -> Callable[[Spread], Spread]:
    """Register the rule of some opcodes."""

    def register(rule: Spread) -> Spread:
        for opcode in opcodes:
            RULES[opcode] = rule
        return rule

    return register


def fill(dtype: torch.dtype) -> float | int:
    """The value of an undetermined element."""
    return torch.nan if dtype.is_floating_point else FILL


def mask_of(frame: Frame, value: Value) -> torch.Tensor:
    """The marks of a value as a mask of the shape that its tile has."""
    mark = frame.marks.get(value.slot)
    tile = frame.get(value)
    if mark is None:
        return torch.zeros((), dtype=torch.bool).expand(tile.shape)
    shape = torch.broadcast_shapes(mark.mask.shape, tile.shape)
    return mark.mask.expand(shape)


def follow(frame: Frame, op: Op) -> None:
    """After an op has run: mark what it made of marked operands."""
    marks = [frame.marks[v.slot] for v in op.inputs if v.slot in frame.marks]
    if not marks:
        return
    origins = frozenset(origin for mark in marks for origin in mark.origins)
    for result, mask in zip(op.results, RULES.get(op.opcode, _anywhere)(frame, op), strict=False):
        if mask is not None and bool(mask.any()):
            old = frame.marks.get(result.slot)
            if old is not None:
                mask, found = mask | old.mask, origins | old.origins
            else:
                found = origins
            frame.marks[result.slot] = Mark(mask, found)


def refuse(frame: Frame, op: Op, value: Value, how: str, where: torch.Tensor | None = None) -> None:
    """Raise a fault if a live lane's element is marked. where: the elements that matter."""
    mark = frame.marks.get(value.slot)
    if mark is None:
        return
    mask = mark.mask
    if frame.live is not None:
        mask = mask & lanes_first(frame.live, value.rank)
    if where is not None:
        mask = mask & where
    if bool(mask.any()):
        text = f"an undetermined value {how}; it comes from {', '.join(sorted(mark.origins))}"
        varying = mask.dim() > value.rank
        raise frame.fault(FaultKind.UNDETERMINED, op, text, mask if varying else None)


def _anywhere(frame: Frame, op: Op) -> Sequence[torch.Tensor]:
    """Element by element: marked where any operand is."""
    found = torch.zeros((), dtype=torch.bool)
    for value in op.inputs:
        if value.slot in frame.marks:
            found = found | frame.marks[value.slot].mask
    return [found] * len(op.results)


@spreads("raw_where")
def _where(frame: Frame, op: Op) -> Sequence[torch.Tensor]:
    x, y = mask_of(frame, op["x"]), mask_of(frame, op["y"])
    return [torch.where(frame.get(op["cond"]), x, y) | mask_of(frame, op["cond"])]


@spreads("raw_binary_bitwise")
def _bitwise(frame: Frame, op: Op) -> Sequence[torch.Tensor]:
    """False and x is False; True or x is True."""
    one, other = mask_of(frame, op["lhs"]), mask_of(frame, op["rhs"])
    found = one | other
    if op.result.element.kind == "bool" and op["fn"] in ("and_", "or_"):
        decides = op["fn"] == "or_"
        lhs, rhs = frame.get(op["lhs"]), frame.get(op["rhs"])
        found = found & ~(((lhs == decides) & ~one) | ((rhs == decides) & ~other))
    return [found]


@spreads("tile_load", "load_pointer", "tile_store", "store_pointer", "tile_atomic_rmw")
@spreads("tile_atomic_cas", "tile_atomic_red_view", "assert", "tile_printf", "get_array_list_item")
@spreads("make_tensor_view", "make_list_view", "make_partition_view", "make_strided_view")
@spreads("make_gather_scatter_view", "num_tiles", "make_dummy")
def _handled(frame: Frame, op: Op) -> Sequence[None]:
    """Their handlers refuse marked operands, or mark results themselves."""
    return [None] * len(op.results)
