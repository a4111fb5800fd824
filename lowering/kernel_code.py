"""Compiled variants of kernels as things to ask for: are they there, and if not, why?

Asking for many compiles those that the store lacks, several at a time.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tile_backend.lowering import failure
from tile_backend.lowering.cubin_file import Key
from tile_backend.lowering.kernels.build_error import BuildError
from tile_backend.lowering.progress import track
from tile_backend.lowering.reason import Reason

MOST_COMPILERS = 16
"""Processes at a time, on a machine with that many cores."""


@dataclasses.dataclass(frozen=True)
class Code:
    """One variant of a kernel, whether or not it exists; made by `compiled.Kernel.code`."""

    kernel: Any = dataclasses.field(compare=False)
    signature: Any = dataclasses.field(compare=False)
    key: Key

    def problem(self, compiles: bool) -> Reason | None:
        """Why it cannot be had. compiles: make it, else only look whether it could be made."""
        return failure.tried("making the code of a kernel", None, self._asked, compiles)

    def _asked(self, compiles: bool) -> Reason | None:
        try:
            if compiles:
                self.kernel.build(self)
            else:
                self.kernel.lookup(self.key)
        except BuildError as error:
            return error.reason
        return None


def missing(codes: Collection[Code], compiles: bool) -> dict[Code, Reason]:
    """Those that cannot be had. Threads: a compiler is a process of its own."""
    if not codes:
        return {}
    workers = min(len(codes), len(os.sched_getaffinity(0)), MOST_COMPILERS)
    with ThreadPoolExecutor(workers, thread_name_prefix="tilegym-compile") as pool:
        asked = pool.map(lambda code: code.problem(compiles), codes)
        problems = track(asked, "kernels", len(codes)) if compiles else asked
        return {c: p for c, p in zip(codes, problems, strict=True) if p is not None}
