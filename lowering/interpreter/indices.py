"""The indices behind the addresses of a gather or scatter, read off the arithmetic around them.

The front end turns `gather(x, (i, j))` into one address per element: base + i * stride 0 +
j * stride 1. Without a bounds check, an index beyond its axis may still give the address of an
element, of another row. So sums of that form are recognised, and their indices checked.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import NamedTuple

import torch

from tile_backend.lowering.interpreter.faults import FaultKind
from tile_backend.lowering.interpreter.frame import Frame
from tile_backend.lowering.interpreter.program import Op, Program, Value

PASSED_ON = ("tile_reshape", "tile_broadcast", "tile_astype", "assume_div_by", "assume_bounded")
PROGRAMS_KEPT = 512


class Indexed(NamedTuple):
    """An array parameter, and one tile of indices (uint64) and one size per axis."""

    name: str
    indices: tuple[Value, ...]
    sizes: tuple[Value, ...]


@functools.lru_cache(maxsize=PROGRAMS_KEPT)
def indexed(program: Program) -> Mapping[Value, Indexed]:
    """For each pointer whose indices are known: where it points."""
    made = {result: op for op in program.body.walk() for result in op.results}
    arrays = {values[0]: (name, values[1:]) for name, values in program.parameters}
    found = {}
    for pointer, op in made.items():
        if op.opcode != "pointer_offset":
            continue
        base = _origin(op["pointer"], made)
        terms = _terms(op["offset"], made)
        if base not in arrays or terms is None:
            continue
        name, extents = arrays[base]
        rank = len(extents) // 2
        if len(terms) == rank and all(
            _is_stride(term["rhs"], extents[rank + axis], made) for axis, term in enumerate(terms)
        ):
            indices = tuple(term["lhs"] for term in terms)
            found[pointer] = Indexed(name, indices, tuple(extents[:rank]))
    return found


def _origin(value: Value, made: Mapping[Value, Op]) -> Value:
    """The value of which this one is a copy in another shape or type."""
    while value in made and made[value].opcode in PASSED_ON:
        value = made[value]["x"]
    return value


def _terms(offset: Value, made: Mapping[Value, Op]) -> list[Op] | None:
    """The products of a sum, in order; None where it is something else."""
    op = made.get(offset)
    if op is None or op.opcode != "raw_binary_arith":
        return None
    if op["fn"] == "mul":
        return [op]
    before = _terms(op["lhs"], made) if op["fn"] == "add" else None
    last = _terms(op["rhs"], made) if before is not None else None
    return None if before is None or last is None else before + last


def _is_stride(value: Value, stride: Value, made: Mapping[Value, Op]) -> bool:
    origin = _origin(value, made)
    return origin is stride or (origin in made and made[origin].opcode == "typed_const")


def check(frame: Frame, op: Op, chosen: torch.Tensor | None) -> None:
    """Every chosen index is on its axis; chosen: a bool that broadcasts, or None for all."""
    known = indexed(frame.run.program).get(op["pointer"])
    if known is None:
        return
    for axis, (index, size) in enumerate(zip(known.indices, known.sizes, strict=True)):
        tile = frame.get(index)
        outside = (tile < 0) | (tile >= frame.get(size))
        if chosen is not None:
            outside = outside & chosen
        if bool(outside.any()):
            wrong = int(tile.expand(outside.shape)[outside][0])
            text = (
                f"index {wrong} is outside axis {axis} of `{known.name}`, of {int(frame.get(size))}"
                " elements, and bounds are not checked"
            )
            varies = outside.dim() > op["pointer"].rank
            raise frame.fault(FaultKind.OUT_OF_BOUNDS, op, text, outside if varies else None)
