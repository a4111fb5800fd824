"""Writing files that are never seen half written, and one clear error where that cannot be done."""

from __future__ import annotations

import os
import secrets
from typing import TYPE_CHECKING

from tile_backend.errors import ReportFolderError

if TYPE_CHECKING:
    from pathlib import Path


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text to a new file beside `path` and move it there.

    Missing folders are made; several processes may write the same file. Raises `ReportFolderError`.
    """
    fresh = path.with_name(f".{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with fresh.open("x", encoding="utf-8") as file:
                file.write(text)
            fresh.replace(path)
        finally:
            fresh.unlink(missing_ok=True)
    except OSError as error:
        raise ReportFolderError(
            folder=str(path.parent), cause=error.strerror or str(error)
        ) from error
