"""Control flow: blocks that take different paths run under a mask of live lanes.

`run_block` returns what a block hands on, or None where no lane gets to its end. Lanes that leave a
loop wait with their values until all have left; lanes that return are gone.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import torch

from tile_backend.lowering.interpreter import progress, undetermined
from tile_backend.lowering.interpreter.carried import Carried, joined, simplified
from tile_backend.lowering.interpreter.faults import FaultKind, InterpreterError
from tile_backend.lowering.interpreter.frame import Frame
from tile_backend.lowering.interpreter.program import Block, Op, Value
from tile_backend.lowering.interpreter.registry import HANDLERS

CONTROL = ("loop", "ifelse", "continue", "break", "end_branch", "return")
"""The opcodes that are run here."""
Exits = dict[str, Carried | None]
"""Of one iteration: what left by `continue` and by `break`."""


def run_block(frame: Frame, block: Block, loop: tuple[Op, Exits] | None) -> Carried | None:
    """Run the ops for the live lanes. loop: the innermost one, and its exits to fill."""
    for op in block.ops:
        opcode = op.opcode
        if opcode == "ifelse":
            if not _run_if(frame, op, loop):
                return None
        elif opcode == "loop":
            if not _run_loop(frame, op):
                return None
        elif opcode in ("continue", "break"):
            assert loop is not None, f"{opcode} is in a loop"
            found = Carried.of(frame, op["values"])
            loop[1][opcode] = joined(_variables(loop[0]), loop[1][opcode], found)
            return None
        elif opcode == "return":
            return None
        elif opcode == "end_branch":
            return Carried.of(frame, op["outputs"])
        else:
            _run_op(frame, op)
    return Carried([], [], frame.live)


def _run_op(frame: Frame, op: Op) -> None:
    """Run an op that is no control flow; what torch raises in it gets kernel and line as a note."""
    try:
        HANDLERS[op.opcode](frame, op)
    except InterpreterError:
        raise
    except Exception as error:
        name = frame.run.program.kernel
        error.add_note(f"while interpreting `{op.opcode}` of kernel {name} at {op.source}")
        raise
    if frame.marks:
        undetermined.follow(frame, op)


def yielded(frame: Frame, block: Block) -> list[torch.Tensor]:
    """What a block without branches hands on."""
    outcome = run_block(frame, block, None)
    assert outcome is not None, "the block yields"
    return outcome.tiles


def _run_if(frame: Frame, op: Op, loop: tuple[Op, Exits] | None) -> bool:
    """False where no lane goes on."""
    undetermined.refuse(frame, op, op["cond"], "decides a branch")
    condition, before = frame.get(op["cond"]), frame.live
    if condition.dim() == 0:
        branch = op["then_block"] if bool(condition) else op["else_block"]
        outcome = run_block(frame, branch, loop)
    else:
        outcome = None
        for block, lanes in ((op["then_block"], condition), (op["else_block"], ~condition)):
            taken = lanes if before is None else lanes & before
            if bool(taken.any()):
                frame.live = simplified(taken)
                outcome = joined(op.results, outcome, run_block(frame, block, loop))
    if outcome is None:
        return False
    outcome.assign(frame, op.results)
    return True


def _variables(loop: Op) -> tuple[Value, ...]:
    """The loop's carried variables, without its counter."""
    parameters: tuple[Value, ...] = loop["body"].parameters
    return parameters if loop["start"] is None else parameters[1:]


def _run_loop(frame: Frame, op: Op) -> bool:
    """False where no lane goes on."""
    trips = None if op["start"] is None else _trips(frame, op)
    rounds: Iterable[int] = itertools.count()
    if trips is not None and trips.dim() == 0:
        rounds = range(int(trips))
    going: Carried | None = Carried.of(frame, op["initial_values"])
    left: Carried | None = None
    watch = progress.Watch(frame, op)
    for number in rounds:
        assert going is not None, "a round has lanes"
        if trips is not None and trips.dim():
            done, going = going.split(trips <= number)
            left = joined(op.results, left, done)
            if going is None:
                break
        going.assign(frame, _variables(op))
        if trips is not None:
            _count(frame, op, number)
        exits: Exits = {"continue": None, "break": None}
        run_block(frame, op["body"], (op, exits))
        left = joined(op.results, left, exits["break"])
        going = exits["continue"]
        if going is None:
            break
        if trips is None:
            watch.look(going, number)
    left = joined(op.results, left, going)
    if left is None:
        return False
    left.assign(frame, op.results)
    return True


def _trips(frame: Frame, op: Op) -> torch.Tensor:
    """How often a for loop runs, () or [lanes]."""
    for name in ("start", "stop", "step"):
        undetermined.refuse(frame, op, op[name], f"is the {name} of a loop")
    start, stop, step = (frame.get(op[name]).long() for name in ("start", "stop", "step"))
    stuck = frame.alive(step <= 0) if step.dim() else step <= 0
    if bool(stuck.any()):
        raise frame.fault(FaultKind.NO_PROGRESS, op, "the step of a loop is not positive", stuck)
    trips = torch.div(stop - start + step - 1, step.clamp_min(1), rounding_mode="floor")
    return trips.clamp_min(0)


def _count(frame: Frame, op: Op, number: int) -> None:
    counter: Value = op["body"].parameters[0]
    start, step = frame.get(op["start"]), frame.get(op["step"])
    frame.put(counter, (start + number * step).to(counter.element.held))
