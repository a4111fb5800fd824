"""Compiled kernels in a folder: one checked file each, written whole or not at all.

`get` gives the kernel that was put under a key, or None; a file that is damaged, or that somebody
else may have written (`own_file`: what is in it runs on the GPU), is None with a warning, and is
replaced by the next `put`. Nothing here raises for what a disk can do: a folder that cannot be
written costs one warning, and the kernels stay in memory for this process. Several processes may
use one folder. The files used longest ago go when it outgrows its limit.

TILEGYM_KERNEL_STORE names the folder, TILEGYM_KERNEL_STORE_MIB its limit.
"""

from __future__ import annotations

import contextlib
import functools
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

from tile_backend.lowering import own_file
from tile_backend.lowering.atomic_write import OWN, remove_abandoned, write_whole
from tile_backend.lowering.cubin_file import SUFFIX, Cubin, Key, pack, unpack
from tile_backend.lowering.own_file import DamagedError, ForeignError

FOLDER = "TILEGYM_KERNEL_STORE"
LIMIT = "TILEGYM_KERNEL_STORE_MIB"
DEFAULT_MIB = 1024
"""Tens of thousands of kernels; a model has some tens."""


class StoreWarning(RuntimeWarning):
    """The store of compiled kernels could not be used as it should; results are not affected."""


class Store:
    """The kernels under `folder`, at most `limit` bytes of them."""

    def __init__(self, folder: Path, limit: int = DEFAULT_MIB << 20) -> None:
        self.folder = folder
        self.limit = limit
        self._unwritten: dict[tuple[Key, str], Cubin] = {}

    def get(self, key: Key, compiler: str | None) -> Cubin | None:
        """The kernel of `key` made by this version of the compiler; None: by the newest there is.

        Without a compiler there is no version to insist on, and nothing else to run.
        """
        for version, path in self._candidates(key, compiler):
            if (kept := self._unwritten.get((key, version))) is not None:
                return kept
            if (read := self._read(key, path)) is not None:
                return read
        return None

    def put(self, key: Key, compiler: str, cubin: Cubin) -> bool:
        """Keep a kernel; False where only this process has it."""
        content = pack(key, compiler, cubin)
        if len(content) <= self.limit and self._write(self.path(key, compiler), content):
            return True
        self._unwritten[key, compiler] = cubin
        return False

    def path(self, key: Key, compiler: str) -> Path:
        """The file of one kernel."""
        return self.folder / f"{key}-{compiler}{SUFFIX}"

    def files(self) -> list[tuple[float, int, Path]]:
        """Last use in seconds, bytes and path of every kernel, oldest use first."""
        return sorted(_scan(self.folder))

    def _candidates(self, key: Key, compiler: str | None) -> Iterator[tuple[str, Path]]:
        if compiler is not None:
            yield compiler, self.path(key, compiler)
            return
        kept = {version for other, version in self._unwritten if other == key}
        stem = f"{key}-"
        found = {
            path.name.removeprefix(stem).removesuffix(SUFFIX)
            for _, _, path in self.files()
            if path.name.startswith(stem)
        }
        for version in sorted(kept | found, key=_numbers, reverse=True):
            yield version, self.path(key, version)

    def _read(self, key: Key, path: Path) -> Cubin | None:
        try:
            cubin = unpack(key, own_file.read(path))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except ForeignError as error:
            _warn(f"{error}; kernels that lie there are compiled again")
            return None
        except (DamagedError, OSError) as error:
            _warn(f"{path} is ignored: {_said(error)}; the kernel is compiled again")
            return None
        with contextlib.suppress(OSError):  # a folder that is only read needs no order of use
            os.utime(path)
        return cubin

    def _write(self, path: Path, content: bytes) -> bool:
        try:
            self.folder.mkdir(mode=0o755, parents=True, exist_ok=True)
            write_whole(path, content, OWN)
            remove_abandoned(self.folder)
            self._shrink(path)
        except OSError as error:
            _warn(
                f"compiled kernels cannot be kept in {self.folder} ({_said(error)}), so every"
                f" process compiles them again; set {FOLDER} to a folder that can be written"
            )
            return False
        return True

    def _shrink(self, newest: Path) -> None:
        """Delete what was used longest ago until a quarter of the limit is free again."""
        files = self.files()
        total = sum(size for _, size, _ in files)
        if total <= self.limit:
            return
        for _, size, path in files:
            if path != newest and total > self.limit * 3 // 4:
                path.unlink(missing_ok=True)
                total -= size


def default() -> Store:
    """The store that the environment names, else one in the user's cache folder."""
    return _opened(os.environ.get(FOLDER, ""), os.environ.get(LIMIT, ""))


@functools.cache
def _opened(folder: str, limit: str) -> Store:
    """One object per folder and limit, since it holds what could not be written."""
    mib = DEFAULT_MIB
    if limit.isdecimal():
        mib = int(limit)
    elif limit:
        _warn(f"{LIMIT}={limit!r} is not a whole number of MiB; {DEFAULT_MIB} is used")
    try:
        return Store(Path(folder).expanduser() if folder else _cache_folder(), mib << 20)
    except RuntimeError:
        _warn(f"there is no home folder to keep compiled kernels in; name one with {FOLDER}")
        return Store(Path(os.devnull), limit=0)


def _cache_folder() -> Path:
    """Raises RuntimeError for a user without a home."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not cache.is_absolute():  # the standard says to ignore a relative one
        cache = Path("~/.cache").expanduser()
    return cache / "tile-backend" / "kernels"


def _scan(folder: Path) -> Iterator[tuple[float, int, Path]]:
    """Time of change, size and path of each kernel; none where there is no such folder."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(SUFFIX):
                with contextlib.suppress(OSError):  # another process may have deleted it
                    facts = entry.stat()
                    yield facts.st_mtime, facts.st_size, Path(entry.path)


def _numbers(version: str) -> list[int]:
    return [int(part) if part.isdecimal() else 0 for part in version.split(".")]


def _said(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


@functools.cache
def _warn(text: str) -> None:
    """Each text once: what is wrong with a folder is wrong at every kernel."""
    warnings.warn(text, StoreWarning, stacklevel=2)
