"""Measurements on disk: those shipped with the package, and those of the user beside them.

`find` gives what counts for a call: measured on that GPU, with the code that is there now, for
sizes that the call may have. `record` adds to the user's folder; several processes may, at once.
A file that is damaged is one warning; its good entries count, and a copy of it is kept before it is
written anew. One that somebody else may have written (`own_file`) is one warning as well: nothing
in it counts, and it stays as it is. A folder that cannot be written is one warning, and nothing is
recorded. The shipped files are trusted as the code beside them is.

TILEGYM_TUNING names the user's folder.
"""

from __future__ import annotations

import collections
import functools
import hashlib
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from tile_backend.lowering import own_file, tuning_file
from tile_backend.lowering.atomic_write import OWN, remove_abandoned, write_whole
from tile_backend.lowering.own_file import DamagedError
from tile_backend.lowering.tuning_entry import Entry, Kind
from tile_backend.lowering.tuning_file import Content
from tile_backend.lowering.tuning_sources import sources_behind

if TYPE_CHECKING:
    from filelock import BaseFileLock

FOLDER = "TILEGYM_TUNING"
SHIPPED = Path(__file__).parent / "tuned"
Sort = Literal["gate", "configuration"]
LOCK_SECONDS = 60
"""How long to wait for another process that writes; it does for milliseconds."""


class TuningWarning(RuntimeWarning):
    """Measurements could not be read or written; results are not affected, speed may be."""


class Found(NamedTuple):
    """An entry, and whether it came with the package."""

    entry: Entry
    origin: Literal["shipped", "user"]


class File(NamedTuple):
    """A file as it was read: its entries by sort and kind, and a digest of its bytes."""

    content: Content
    entries: Mapping[tuple[str, str], Sequence[Entry]]
    digest: str


NOTHING = File(Content(()), {}, "")


def folder() -> Path | None:
    """The user's; None for a user without a home."""
    named = os.environ.get(FOLDER, "")
    data = Path(os.environ.get("XDG_DATA_HOME", ""))
    try:
        if named:
            return Path(named).expanduser()
        if not data.is_absolute():  # the standard says to ignore a relative one
            data = Path("~/.local/share").expanduser()
    except RuntimeError:
        return None
    return data / "tile-backend" / "tuning"


def path_of(arch: str) -> Path | None:
    """The user's file of an architecture."""
    own = folder()
    return None if own is None else own / f"{arch}.json"


def find(arch: str, gpu: str, sort: Sort, kind: Kind) -> list[Found]:
    """The entries that count for calls of a kind whose sizes meet theirs: the shipped ones first.

    gpu: the name of the device, or "" for whichever of that architecture.
    """
    return [
        Found(entry, origin)
        for origin, file in files(arch)
        for entry in file.entries.get((sort, kind.text), ())
        if gpu in ("", entry.circumstances.gpu) and meets(entry, kind) and is_current(entry)
    ]


def has(arch: str, sort: Sort) -> bool:
    """Whether anything of that sort is stored for an architecture."""
    return any(found == sort for _, file in files(arch) for found, _ in file.entries)


def meets(entry: Entry, kind: Kind) -> bool:
    """Whether some sizes that the kind allows are in the entry's ranges."""
    if entry.ranges.keys() != kind.sizes.keys():
        return False
    pairs = ((kind.range_of(name), ends) for name, ends in entry.ranges.items())
    return all(least <= last and first <= most for (least, most), (first, last) in pairs)


def is_current(entry: Entry) -> bool:
    """Whether the code that was measured is the code that is there."""
    return entry.circumstances.sources == sources_behind(entry.sort, entry.kind)


def identity(*architectures: str) -> str:
    """Differs where what is stored for these architectures does."""
    return "-".join(file.digest for arch in architectures for _, file in files(arch))


def files(arch: str) -> Iterator[tuple[Literal["shipped", "user"], File]]:
    """What is stored for an architecture, and by whom."""
    yield "shipped", opened(SHIPPED / f"{arch}.json", arch)
    own = path_of(arch)
    yield "user", NOTHING if own is None else opened(own, arch)


def counts() -> dict[str, tuple[int, int]]:
    """By architecture: how many entries are stored, and how many of them are of other code."""
    folders = [SHIPPED, folder()]
    found = {path.stem for each in folders if each for path in each.glob("sm_*.json")}
    counted = {}
    for arch in sorted(found):
        entries = [entry for _, file in files(arch) for entry in file.content.entries]
        counted[arch] = len(entries), sum(not is_current(entry) for entry in entries)
    return {arch: count for arch, count in counted.items() if count[0]}


def opened(path: Path, arch: str) -> File:
    """The file; it is read again only where it has changed."""
    try:
        facts = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return NOTHING
    except OSError as error:
        warn(f"the measurements in {path} cannot be read: {error.strerror or error}")
        return NOTHING
    return loaded(path, arch, (facts.st_mtime_ns, facts.st_ctime_ns, facts.st_size, facts.st_ino))


@functools.lru_cache(maxsize=64)
def loaded(path: Path, arch: str, state: tuple[int, ...]) -> File:
    """state: changes whenever the file does, or who may write to it."""
    try:
        raw = path.read_bytes() if path.parent == SHIPPED else own_file.read(path)
        content = tuning_file.read(raw.decode("utf-8", "replace"), arch)
    except OSError as error:
        warn(f"the measurements in {path} cannot be read: {error.strerror or error}")
        return NOTHING
    except DamagedError as error:
        warn(f"the measurements in {path} do not count: {error}")
        return NOTHING
    if content.damage:
        kept = "the rest of it counts" if content.entries else "it is ignored"
        warn(
            f"{path} is damaged: {content.damage}; {kept}. Mend or delete it, and measure again"
            " with `python -m tile_backend tune`"
        )
    entries: dict[tuple[str, str], list[Entry]] = collections.defaultdict(list)
    for entry in content.entries:
        entries[entry.sort, entry.kind].append(entry)
    return File(content, dict(entries), hashlib.sha256(raw).hexdigest()[:16])


def record(arch: str, entries: Sequence[Entry]) -> bool:
    """Add to the user's file; an entry of the same kind, sizes and GPU is replaced.

    False where it cannot be written, which is one warning.
    """
    path = path_of(arch)
    if path is None:
        warn(f"there is no home folder to keep measurements in; name one with {FOLDER}")
        return False
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        with locked(path):
            merge(path, arch, entries)
            remove_abandoned(path.parent)
    except (OSError, TimeoutError, NotImplementedError, DamagedError) as error:
        said = (error.strerror if isinstance(error, OSError) else None) or str(error)
        warn(
            f"measurements cannot be kept in {path.parent} ({said}); set {FOLDER} to a folder that"
            " can be written"
        )
        return False
    return True


def locked(path: Path) -> BaseFileLock:
    """The lock on a file; that of a process that has died is free."""
    from filelock import FileLock

    return FileLock(path.with_name(f".{path.name}.lock"), timeout=LOCK_SECONDS)


def merge(path: Path, arch: str, entries: Iterable[Entry]) -> None:
    """Read, add and write. Raises OSError, or DamagedError for a file that is not touched."""
    old = Content(())
    if os.path.lexists(path):
        raw = own_file.read(path)
        old = tuning_file.read(raw.decode("utf-8", "replace"), arch)
        if old.damage:
            keep(path, raw)
    known = {tuning_file.key(entry): entry for entry in old.entries}
    known |= {tuning_file.key(entry): entry for entry in entries}
    write_whole(path, tuning_file.text_of(arch, known.values()).encode(), OWN)


def keep(path: Path, raw: bytes) -> None:
    """A copy of a damaged file, which is about to be written anew."""
    digest = hashlib.sha256(raw).hexdigest()[:8]
    copy = path.with_name(f"{path.name}.{digest}.damaged")
    write_whole(copy, raw, OWN)
    warn(f"{path} is damaged; what it held is kept in {copy}")


@functools.cache
def warn(text: str) -> None:
    """Each text once."""
    warnings.warn(text, TuningWarning, stacklevel=2)
