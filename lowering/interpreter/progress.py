"""Loops that never end: one that comes back to a state it was in does so for ever.

A block that waits for another may do so on a GPU; here blocks run together or one after the other,
and the wait would be for ever as well.
"""

from __future__ import annotations

import torch

from tile_backend.lowering.interpreter.carried import Carried
from tile_backend.lowering.interpreter.faults import FaultKind
from tile_backend.lowering.interpreter.frame import Frame
from tile_backend.lowering.interpreter.program import Op

PATIENCE = 2**8
"""Iterations after which the state is remembered, and again after every doubling."""


class Watch:
    """Of one execution of a loop. The state is what it carries, who runs, and written memory."""

    def __init__(self, frame: Frame, op: Op) -> None:
        self.frame, self.op = frame, op
        self.seen: Carried | None = None
        self.memory: list[torch.Tensor] = []

    def look(self, going: Carried, number: int) -> None:
        """After iteration `number`: raise a fault if the state is the one remembered."""
        if number >= PATIENCE and self.seen is not None and self._same(going):
            text = (
                f"after {number} rounds a loop is in a state that it was in before, and never ends;"
                " if it waits for another block, none runs meanwhile"
            )
            raise self.frame.fault(FaultKind.NO_PROGRESS, self.op, text)
        if number >= PATIENCE and not number & (number - 1):
            self.seen, self.memory = going, [flat.clone() for flat in self._written()]

    def _written(self) -> list[torch.Tensor]:
        segments = self.frame.run.memory.segments
        return [segment.typed(torch.uint8) for segment in segments if segment.tracked]

    def _same(self, going: Carried) -> bool:
        assert self.seen is not None, "compared with what was seen"
        lanes = (going.lanes, self.seen.lanes)
        running = [None if one is None else one.tolist() for one in lanes]
        return (
            going.same(self.seen)
            and running[0] == running[1]
            and all(map(torch.equal, self._written(), self.memory))
        )
