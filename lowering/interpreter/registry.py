"""Which function runs an opcode: `@runs("tile_cat")` above it."""

from __future__ import annotations

from collections.abc import Callable

from tile_backend.lowering.interpreter.contract import OPCODES
from tile_backend.lowering.interpreter.frame import Frame
from tile_backend.lowering.interpreter.program import Op

Handler = Callable[[Frame, Op], None]

HANDLERS: dict[str, Handler] = {}
"""Everything but control flow, which `control` runs itself."""


def runs(*opcodes: str) -> Callable[[Handler], Handler]:
    """Register a handler: it reads the op's operands from the frame and puts its results there."""

    def register(handler: Handler) -> Handler:
        for opcode in opcodes:
            assert opcode in OPCODES, f"{opcode} is no opcode of cuTile"
            assert opcode not in HANDLERS, f"{opcode} has two handlers"
            HANDLERS[opcode] = handler
        return handler

    return register
