"""Module globs: which module paths `tilegym.include` and `tilegym.exclude` mean.

A glob is matched one dotted component at a time: `*` and `?` stay inside one component, and a glob
that covers a prefix of a path covers its whole subtree, so "model.layers.*.mlp" covers
"model.layers.3.mlp.act_fn". The path "" is the compiled root itself, which only "*" covers.
"""

from __future__ import annotations

import fnmatch
import warnings
from collections.abc import Iterable, Sequence

from tile_backend.errors import UnmatchedGlob
from tile_backend.folding import fold

EVERY_FUSION = "*"
"""The key of globs that were given as a list, for all fusions."""

Globs = tuple[tuple[str, tuple[str, ...]], ...]
"""(fusion or EVERY_FUSION, its globs), in the order given."""

SHOWN = 8
"""How many module paths a warning lists before it says how many are left."""


def covers(glob: str, path: str) -> bool:
    """True if the glob matches the path or one of its prefixes."""
    wanted, found = glob.split("."), path.split(".")
    return len(wanted) <= len(found) and all(
        fnmatch.fnmatchcase(part, pattern) for part, pattern in zip(found, wanted, strict=False)
    )


def applying(globs: Globs, fusion: str) -> tuple[str, ...]:
    """The globs that speak about this fusion."""
    return tuple(glob for name, each in globs if name in (EVERY_FUSION, fusion) for glob in each)


def allowed(fusion: str, path: str, include: Globs, exclude: Globs) -> bool:
    """True if no exclude covers the path, and an include does or none speaks about this fusion."""
    included = applying(include, fusion)
    if included and not any(covers(glob, path) for glob in included):
        return False
    return not any(covers(glob, path) for glob in applying(exclude, fusion))


def unmatched(globs: Globs, paths: Iterable[str]) -> tuple[str, ...]:
    """The globs that cover none of the paths, each once, in the order given."""
    seen = frozenset(paths)
    every = dict.fromkeys(glob for _, each in globs for glob in each)
    return tuple(glob for glob in every if not any(covers(glob, path) for path in seen))


def warn_unmatched(key: str, globs: Globs, paths: Sequence[str], stacklevel: int = 2) -> None:
    """One `UnmatchedGlob` warning per glob of the option `key` that covers none of the paths."""
    missing = unmatched(globs, paths)
    if not missing:
        return
    folded = fold(path for path in paths if path)
    seen = ", ".join(folded[:SHOWN]) or "none"
    if len(folded) > SHOWN:
        seen += f" and {len(folded) - SHOWN} more"
    for glob in missing:
        warnings.warn(UnmatchedGlob(key=key, glob=glob, seen=seen), stacklevel=stacklevel + 1)
