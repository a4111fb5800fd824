"""One file per fusion. `all_fusions()` finds them by name: adding a file adds a fusion.

A file whose name begins with an underscore is a part of a fusion's file that grew too long.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil

from tile_backend.lowering.fusion import Fusion


@functools.cache
def all_fusions() -> tuple[Fusion, ...]:
    """Every `FUSION` declared in this package, sorted by name."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    files = [name for name in names if not name.startswith("_")]
    return tuple(importlib.import_module(f"{__name__}.{name}").FUSION for name in files)
