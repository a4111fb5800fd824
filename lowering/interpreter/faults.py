"""What the interpreter raises: a kernel it cannot run, or a kernel that breaks a rule.

Every error names the kernel, the line of the user's source, and the block where one is at fault.
"""

from __future__ import annotations

import enum

from tile_backend.lowering.interpreter.program import Source


class InterpreterError(RuntimeError):
    """kernel: name of the kernel function. source: the line, None where there is none to blame."""

    def __init__(self, kernel: str, source: Source | None, text: str) -> None:
        self.kernel, self.source, self.text = kernel, source, text
        at = f" at {source}" if source is not None else ""
        super().__init__(f"kernel {kernel}{at}: {text}")


class UnsupportedKernel(InterpreterError):
    """The interpreter does not run this. opcode: the one that it met."""

    def __init__(self, kernel: str, source: Source | None, opcode: str, text: str) -> None:
        self.opcode = opcode
        super().__init__(kernel, source, f"`{opcode}`: {text}")


class FaultKind(enum.Enum):
    """The rules that a kernel can break."""

    UNDETERMINED = "an undetermined value reaches a result"
    TILE_OUTSIDE = "a tile lies wholly outside its array"
    OUT_OF_BOUNDS = "check_bounds=False, and an element is outside"
    BAD_ADDRESS = "an address that belongs to no array argument"
    DIVISIBILITY = "a promised divisibility does not hold"
    BOUND = "a promised bound does not hold"
    WRITE_CONFLICT = "two blocks write different values to one element"
    FOREIGN_READ = "a block reads what another block writes"
    ALIASED = "arrays of one launch share elements, and one is written"
    ASSERTION = "an assertion of the kernel fails"
    NO_PROGRESS = "a loop never ends"


class KernelFault(InterpreterError):
    """The kernel broke a rule. block: index of a block that did, or None."""

    def __init__(
        self,
        kind: FaultKind,
        kernel: str,
        source: Source | None,
        text: str,
        block: tuple[int, int, int] | None = None,
    ) -> None:
        self.kind, self.block = kind, block
        where = f" (block {block})" if block is not None else ""
        super().__init__(kernel, source, f"{text}{where}")
