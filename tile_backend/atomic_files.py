"""Writing files that are never seen half written, and one clear error where that cannot be done."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tile_backend.errors import ReportFolderError
from tile_backend.lowering.atomic_write import write_whole

if TYPE_CHECKING:
    from pathlib import Path

ATTEMPTS = 10
"""How often the folder may vanish while it is made or written into."""
VANISHED = (FileNotFoundError, FileExistsError)
"""What that looks like; `mkdir` says that a folder exists which has just gone."""


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text to a new file beside `path` and move it there.

    Missing folders are made; several processes may write the same file, or remove the folder. What
    UTF-8 has no form for, such as a byte in the path of a source file, is written as its number.
    Raises `ReportFolderError`.
    """
    for left in reversed(range(ATTEMPTS)):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, text.encode(errors="backslashreplace"))
            break
        except (OSError, ValueError) as error:
            if not isinstance(error, VANISHED) or not left:
                raise refused(path.parent, error) from error


def refused(folder: Path, error: Exception) -> ReportFolderError:
    """The error for what a disk did, or for a path that is none; to be raised by the caller."""
    cause = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return ReportFolderError(folder=str(folder), cause=cause)
