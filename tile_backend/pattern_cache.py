"""The patterns of the built-in fusions, traced once for all processes of a user.

They lie in the folder of Inductor's caches, under a digest of our code and torch's version, and are
not kept where those caches are turned off. A file that is damaged, or that somebody else may have
written, is one warning in the log and is written anew; one that cannot be read or written is as
good as none. A user's own fusions are traced in each process: nothing tells when their code
changes.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch._inductor import config
from torch._inductor.runtime.cache_dir_utils import cache_dir

from tile_backend.lowering import own_file, pattern_file
from tile_backend.lowering.atomic_write import OWN, remove_abandoned, write_whole
from tile_backend.lowering.fusion import Fusion
from tile_backend.lowering.own_file import DamagedError
from tile_backend.lowering.registry import Registry, registry
from tile_backend.lowering.trace import Pattern, patterns
from tile_backend.patterns import all_fusions
from tile_backend.source_digest import sources

LOGGER = logging.getLogger(__name__)
FOLDER = "tilegym"
KEPT = 4
"""Files: of so many versions of our code or torch."""


def registry_of(fusions: tuple[Fusion, ...]) -> Registry:
    """The fusions, with patterns that may come from the file."""
    return registry(fusions, traced)


def traced(fusions: tuple[Fusion, ...]) -> tuple[Pattern, ...]:
    """Every pattern, in the order of the fusions."""
    ours = set(all_fusions())
    if ours.isdisjoint(fusions):
        return tuple(p for fusion in fusions for p in patterns(fusion))
    found = dict[Fusion, list[Pattern]]()
    for pattern in built_in(all_fusions()):
        found.setdefault(pattern.fusion, []).append(pattern)
    return tuple(
        pattern
        for fusion in fusions
        for pattern in (found[fusion] if fusion in ours else patterns(fusion))
    )


@functools.cache
def built_in(fusions: tuple[Fusion, ...]) -> Sequence[Pattern]:
    """Read, or traced and written."""
    file = path()
    found = None if file is None else kept(file, fusions)
    if found is not None:
        return found
    made = tuple(p for fusion in fusions for p in patterns(fusion))
    if file is not None:
        write(file, pattern_file.packed(made, file.stem))
    return made


def kept(file: Path, fusions: tuple[Fusion, ...]) -> Sequence[Pattern] | None:
    """What a process of this user has written there."""
    try:
        return pattern_file.unpacked(own_file.read(file), fusions, file.stem)
    except FileNotFoundError:
        return None
    except DamagedError as error:
        LOGGER.warning("%s is ignored, and written anew: %s", file, error)
    except OSError as error:
        LOGGER.debug("%s cannot be read: %s", file, error)
    return None


def path() -> Path | None:
    """The file for this code and this torch; None where nothing is to be kept."""
    if config.force_disable_caches:
        return None
    parts = (sources(), torch.__version__, sys.version)
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]
    return Path(cache_dir(), FOLDER, f"{digest}.patterns")


def write(file: Path, content: bytes) -> None:
    """Whole or not at all; the oldest of the others go."""
    try:
        file.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        write_whole(file, content, OWN)
        others = sorted(file.parent.glob("*.patterns"), key=lambda each: each.stat().st_mtime)
        for other in others[:-KEPT]:
            other.unlink(missing_ok=True)
        remove_abandoned(file.parent)
    except OSError as error:
        LOGGER.debug("%s cannot be written: %s", file, error)
