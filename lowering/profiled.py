"""The names that launches have under a profiler: `tilegym.attention model.layers.3.self_attn`.

Generated code has op and module in the comment above each launch (see inductor_ir). They are read
from there when a profiler runs, so that compiled code passes no names, identical layers stay
identical, and a launch costs what it did.
"""

from __future__ import annotations

import functools
import linecache
import sys
from collections.abc import Callable

import torch

from tile_backend.lowering import failure

MARK = "# tilegym."


def recorded(op: str, run: Callable[[], object]) -> None:
    """Run a launch as a named record; to be called by what generated code calls."""
    code = sys._getframe(2)
    given = op, code.f_code.co_filename, code.f_lineno
    name = failure.instead(f"tilegym.{op}", "naming a launch", None, name_at, *given)
    with torch.profiler.record_function(name):
        run()


@functools.lru_cache(maxsize=4096)
def name_at(op: str, file: str, line: int) -> str:
    """The first two words of the comment above a line of generated code, or the op alone."""
    for number in range(line - 1, 0, -1):
        text = linecache.getline(file, number).strip()
        if text.startswith(MARK):
            words = text.removeprefix("# ").split("  ")
            has_path = len(words) > 1 and ":" not in words[1]
            return " ".join(words[: 2 if has_path else 1])
        if not text.startswith("#"):
            break
    return f"tilegym.{op}"
