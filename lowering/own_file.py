"""Reading a file that only this user, or root, can have written.

A cache may lie where others write too: /tmp, a disk of a group, a container's volume. `read` gives
the bytes of a regular file that belongs to this user or to root, that nobody else may write, and
that is no symbolic link; its folder belongs to one of the two as well, and not everybody may write
there, unless the sticky bit keeps each user's files. Asked is the descriptor that is read, not the
path, so nothing can be exchanged in between. Raises ForeignError, or OSError where it cannot be
read. Whether the bytes are whole is for the reader of each format to say, with DamagedError.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

ROOT = 0
LARGEST = 1 << 28
"""Bytes: 256 MiB, far more than any file of ours."""
FLAGS = os.O_RDONLY | os.O_CLOEXEC
OTHERS = stat.S_IWGRP | stat.S_IWOTH


class DamagedError(ValueError):
    """Bytes that are not what they should be; the message says why."""


class ForeignError(DamagedError):
    """A file that somebody else may have written, or its folder; the message names it."""

    def __init__(self, culprit: Path, why: str) -> None:
        super().__init__(f"{culprit} is not trusted: {why}")


def read(path: Path) -> bytes:
    """All of it. Raises DamagedError or OSError."""
    folder = os.open(path.parent, FLAGS | os.O_DIRECTORY)
    try:
        check_folder(path.parent, os.fstat(folder))
        descriptor = opened(path, folder)
    finally:
        os.close(folder)
    try:
        check_file(path, os.fstat(descriptor))
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            content = file.read(LARGEST + 1)
    finally:
        os.close(descriptor)
    if len(content) > LARGEST:
        raise DamagedError(f"it is larger than {LARGEST >> 20} MiB")
    return content


def opened(path: Path, folder: int) -> int:
    """A descriptor. A pipe is not waited for: what is no file is refused once it is open."""
    try:
        return os.open(path.name, FLAGS | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise ForeignError(path, "it is a symbolic link; put the file itself there") from None
        raise


def check_folder(folder: Path, facts: os.stat_result) -> None:
    """Raises ForeignError. A group may write: what its members put there bears their names."""
    check_owner(folder, facts)
    if facts.st_mode & stat.S_IWOTH and not facts.st_mode & stat.S_ISVTX:
        raise ForeignError(folder, f"everybody may write there; mend it with chmod o-w {folder}")


def check_file(path: Path, facts: os.stat_result) -> None:
    """Raises ForeignError, or IsADirectoryError."""
    if stat.S_ISDIR(facts.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(facts.st_mode):
        raise ForeignError(path, "it is no regular file")
    check_owner(path, facts)
    if facts.st_mode & OTHERS:
        raise ForeignError(path, f"others may write to it; mend it with chmod go-w {path}")


def check_owner(path: Path, facts: os.stat_result) -> None:
    """Raises ForeignError."""
    if facts.st_uid not in (ROOT, os.geteuid()):
        raise ForeignError(
            path, f"it belongs to user {facts.st_uid}; use a copy of your own, or one of root's"
        )
