"""Writing a file that is never seen half written, by several processes at once if need be.

The content goes to a new file beside it, which is moved there once it is complete. A process that
is killed in between leaves that temporary file, which nothing reads; `remove_abandoned` deletes
those that are old. After a loss of power a file may lack its content: its reader has to notice.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

TEMPORARY = re.compile(r"\.\d+\.[0-9a-f]+\.tmp")
ABANDONED_SECONDS = 3600
"""A temporary file of that age belongs to a process that died."""
OWN = 0o644
"""The mode of what `own_file` reads: nobody else may write, whatever the umask allows."""


def write_whole(path: Path, content: bytes, mode: int = 0o666) -> None:
    """mode: less what the umask forbids. Raises OSError."""
    with replaced(path, mode) as file:
        file.write(content)


@contextlib.contextmanager
def replaced(path: Path, mode: int = 0o666) -> Iterator[BinaryIO]:
    """A file to write into, which takes the place of `path` at the end of the block.

    An exception leaves `path` as it was. Raises OSError.
    """
    fresh = path.with_name(f".{os.getpid()}.{secrets.token_hex(4)}.tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    descriptor = os.open(fresh, flags, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
        fresh.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            fresh.unlink(missing_ok=True)
        raise


def remove_abandoned(folder: Path) -> None:
    """Delete what killed processes left in a folder; what cannot be deleted stays."""
    oldest = time.time() - ABANDONED_SECONDS
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if TEMPORARY.fullmatch(entry.name):
                with contextlib.suppress(OSError):  # another process may have been faster
                    if entry.stat(follow_symlinks=False).st_mtime < oldest:
                        Path(entry.path).unlink()
