"""What compiled code calls, by name: `_tg.rms_norm(x, weight, 1e-06, 0.0, 'once', out=buf7)`.

Generated code outlives its process in Inductor's caches, so this file is an interface: after a
change that old generated code would not survive, the number in its name goes up. A warm process
imports it before anything else of ours: it stays light, and has no public name but those of ops.

One function per op, with all arguments in schema order. A single output is `out=`; several follow
the arguments, and None stands for one that nobody reads.
"""

from __future__ import annotations

from collections.abc import Callable as _Callable
from typing import Any as _Any


def __getattr__(name: str) -> _Callable[..., _Any]:
    """The launcher of op `name`; made at the first call and kept as a module attribute."""
    if name.startswith("_"):
        raise AttributeError(name)
    from tile_backend.lowering import launch

    try:
        launcher = launch.launcher(name)
    except AttributeError:  # no such op
        raise
    except Exception as error:  # noqa: BLE001 - said there; the program goes on
        launcher = launch.by_reference(name, error)
    globals()[name] = launcher
    return launcher
