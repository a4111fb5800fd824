"""A digest of our own code, for caches whose content depends on it."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

import tile_backend
import tile_backend.lowering
import tile_backend.patterns


@cache
def sources() -> str:
    """Hash of every file of the package, read once: what this process imported."""
    folders = (tile_backend, tile_backend.patterns, tile_backend.lowering)
    files = sorted({f for package in folders for f in Path(package.__path__[0]).rglob("*.py")})
    return hashlib.sha256(b"\0".join(f.read_bytes() for f in files)).hexdigest()
