"""Opcodes that few kernels have: foreign pointers, dependent launches, what passes leave over."""

from __future__ import annotations

from collections.abc import Mapping

import cuda.tile as ct
import pytest
import torch

from tile_backend.lowering.interpreter.contract import OPCODES
from tile_backend.lowering.interpreter.elements import ELEMENTS, pointer_to
from tile_backend.lowering.interpreter.frame import Frame, Run
from tile_backend.lowering.interpreter.launch import interpret
from tile_backend.lowering.interpreter.memory import Memory
from tile_backend.lowering.interpreter.program import Block, Op, Program, Source, TileType, Value
from tile_backend.lowering.interpreter.registry import HANDLERS


@ct.kernel
def through_a_foreign_pointer(x: ct.Array, out: ct.Array) -> None:
    """The array again, seen as rows of 4."""
    rows = ct.Array.from_foreign(x.foreign_pointer, (x.shape[0] // 4, 4), (4, 1))
    tile = ct.load(rows, (ct.bid(0), 0), (1, 4))
    ct.store(out, (ct.bid(0),), ct.sum(tile, axis=1))


def test_an_array_is_made_of_a_foreign_pointer() -> None:
    x, out = torch.arange(12.0), torch.zeros(3)
    interpret((3,), through_a_foreign_pointer, (x, out))
    assert torch.equal(out, x.reshape(3, 4).sum(1))


@ct.kernel
def waits_for_the_launch_before(x: ct.Array) -> None:
    ct.grid_dependency_control_wait()
    ct.store(x, (0,), ct.load(x, (0,), (2,)) + 1.0)
    ct.grid_dependency_control_launch_dependents()


def test_dependent_launches_run_one_after_the_other() -> None:
    x = torch.zeros(2)
    interpret((1,), waits_for_the_launch_before, (x,))
    assert x.tolist() == [1.0, 1.0]


def run_op(opcode: str, operands: Mapping[str, torch.Tensor]) -> tuple[Frame, Value]:
    """One op by itself, on pointers; the frame after it, and its result."""
    element = pointer_to(ELEMENTS["float32"])
    given = {name: Value(i, name, TileType(element, ())) for i, name in enumerate(operands)}
    result = Value(len(given), "result", TileType(element, ()))
    op = Op(opcode, (result,), given, tuple(given.values()), (), Source("kernel.py", 7))
    program = Program("alone", (), Block((), (op,)), (), len(given) + 1)
    frame = Frame(Run(program, (1, 1, 1), Memory()), torch.zeros(1, dtype=torch.int64))
    for name, value in given.items():
        frame.put(value, operands[name])
    HANDLERS[opcode](frame, op)
    return frame, result


@pytest.mark.parametrize("opcode", ("address_space_cast", "reinterpret_pointer", "assign"))
def test_what_only_the_front_end_writes_keeps_addresses(opcode: str) -> None:
    """Kernels lead to these in cuda-tile's dialects only, or not past its passes."""
    (name,) = OPCODES[opcode].operands
    address = torch.tensor(4096)
    frame, result = run_op(opcode, {name: address})
    assert torch.equal(frame.get(result), address)


def test_a_variable_without_a_value_is_undetermined() -> None:
    frame, result = run_op("make_dummy", {})
    (mark,) = frame.marks.values()
    assert mark.mask.all()
    assert mark.origins == {"the variable without a value at kernel.py:7"}
    assert frame.get(result).shape == ()
