"""Writing a file that is never seen half written, by several processes at once if need be."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def write_whole(path: Path, content: bytes) -> None:
    """Write to a new file beside `path`, and move it there. Raises OSError."""
    fresh = path.with_name(f".{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        fresh.write_bytes(content)
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)
