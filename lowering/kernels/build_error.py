"""Why a kernel cannot be had: its compiler failed at it, or there is no compiler."""

from __future__ import annotations

from tile_backend.lowering.reason import Reason, ReasonKind


class BuildError(Exception):
    """A kernel was not compiled; `reason` says why, and what can be done."""

    kind = ReasonKind.MISSING_KERNEL

    def __init__(self, text: str, fix: str = "") -> None:
        self.reason = Reason(self.kind, text, fix=fix)
        super().__init__(str(self.reason))


class MissingError(BuildError):
    """What compiles kernels is not here."""

    kind = ReasonKind.MISSING_DEPENDENCY
