"""Where TORCH_COMPILE_DEBUG=1 collects what torch knows of a process: our dumps lie beside it."""

from __future__ import annotations

from pathlib import Path

from torch._dynamo.utils import get_debug_dir
from torch._inductor import config


def debug_folder() -> Path | None:
    """`torch_compile_debug/run_.../tilegym`; None unless the variable is set."""
    return Path(get_debug_dir()) / "tilegym" if config.trace.enabled else None
