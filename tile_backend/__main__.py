"""`python -m tile_backend`."""

from __future__ import annotations

from tile_backend.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
