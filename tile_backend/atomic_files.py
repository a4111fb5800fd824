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

    Missing folders are made; several processes may write the same file, or remove the folder.
    Raises `ReportFolderError`.
    """
    for left in reversed(range(ATTEMPTS)):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, text.encode())
            break
        except OSError as error:
            if not isinstance(error, VANISHED) or not left:
                cause = error.strerror or str(error)
                raise ReportFolderError(folder=str(path.parent), cause=cause) from error
