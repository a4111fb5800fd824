"""Torch's CompilerBisector, told of our rewrites: they are its last backend's only subsystem.

    from torch._inductor.compiler_bisector import CompilerBisector
    result = CompilerBisector.do_bisect(works)   # it compiles for CompilerBisector.get_backend()
    result.debug_info                            # the rewrite that makes it return False

The one file that knows it. It has no public interface; torch 2.11 to 2.15 have the same.
"""

from __future__ import annotations

from torch._inductor import compiler_bisector
from torch._inductor.compiler_bisector import BisectSubsystem, CompilerBisector

from tile_backend.lowering.site import Site

BACKEND, SUBSYSTEM = "tilegym", "rewrites"


def register() -> None:
    """Once more does nothing."""
    compiler_bisector.BACKENDS.setdefault(BACKEND, [BisectSubsystem(SUBSYSTEM)])


def is_active() -> bool:
    """Whether a bisection is going on."""
    return bool(CompilerBisector.bisection_enabled)


def asks(site: Site) -> bool:
    """Whether the next rewrite, which is this one, goes in."""

    def what() -> str:
        return f"{site.fusion} {site.module} {site.source}".replace("=", ":")

    return not CompilerBisector.disable_subsystem(BACKEND, SUBSYSTEM, what)
