"""Faults in the middle of a write, at a step that the test names: a full disk, or a killed process.

`atomic_write` writes every file of ours, so a fault there is one in each writer. Also files that
belong to somebody else: only root can make those, so the owner is what `fstat` is made to say.
"""

from __future__ import annotations

import errno
import os
import pathlib
import signal
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

from tile_backend.lowering import atomic_write, own_file

STEPS = ("mkdir", "open", "write", "replace")
"""Where a disk may refuse: "write" comes when half of the content is there."""
KILLS = ("open", "write", "replace", "after")
"""Where a process may die: before the file, in the middle of it, before it is moved, after that."""
STRANGER = 54321


def full(*_: object, **__: object) -> NoReturn:
    raise OSError(errno.ENOSPC, "No space left on device")


def killed(*_: object, **__: object) -> None:
    """As by the kernel when memory is short: nothing of ours runs any more."""
    os.kill(os.getpid(), signal.SIGKILL)


class Half:
    """A file that takes half of the first write."""

    def __init__(self, file: Any, fault: Callable[..., Any]) -> None:
        self.file, self.fault = file, fault

    def write(self, content: bytes) -> int:
        self.file.write(bytes(content)[: len(content) // 2])
        self.file.flush()
        return self.fault() or 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def __enter__(self) -> Half:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()


def at(step: str, patch: pytest.MonkeyPatch, fault: Callable[..., Any] = full) -> None:
    """From now on every write of a file comes to the fault at that step."""
    if step == "mkdir":
        patch.setattr(pathlib.Path, "mkdir", fault)
        return
    if step in ("open", "write"):
        system = types.SimpleNamespace(**vars(os))
        if step == "open":
            system.open = fault
        else:
            system.fdopen = lambda descriptor, mode: Half(os.fdopen(descriptor, mode), fault)
        patch.setattr(atomic_write, "os", system)
        return
    replace = pathlib.Path.replace

    def replaced(path: Path, target: Path) -> Path:
        if step == "replace":
            fault()
        found = replace(path, target)
        if step == "after":
            fault()
        return found

    patch.setattr(pathlib.Path, "replace", replaced)


def belongs_to(user: int, patch: pytest.MonkeyPatch, *paths: Path) -> None:
    """What is at these paths now seems to be that user's, until it is replaced."""
    real, places = os.fstat, {(path.stat().st_dev, path.stat().st_ino) for path in paths}

    def fstat(descriptor: int) -> os.stat_result:
        facts = real(descriptor)
        owner = user if (facts.st_dev, facts.st_ino) in places else facts.st_uid
        return os.stat_result((*facts[:4], owner, *facts[5:]))

    system = types.SimpleNamespace(**vars(os))
    system.fstat = fstat
    patch.setattr(own_file, "os", system)


def flips(content: bytes, count: int) -> Iterator[bytes]:
    """The content with one bit changed, at places spread evenly."""
    bits = 8 * len(content)
    for index in range(min(count, bits)):
        bit = index * bits // min(count, bits)
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        yield bytes(changed)


def cuts(content: bytes, count: int) -> Iterator[bytes]:
    """Its beginnings, of lengths spread evenly; the empty one first, one byte too few last."""
    for index in range(count):
        yield content[: index * (len(content) - 1) // (count - 1)]
