"""Functions of the public contract that a later version will have: each says what works instead."""

from __future__ import annotations

from typing import Any, NoReturn

from tile_backend.errors import NotAvailable


def walkthrough(module: Any, *inputs: Any) -> NoReturn:
    """The guided tour of one module through every stage. Raises NotAvailable."""
    instead = "use tile_backend.explain(module, *inputs), then report.save(folder)"
    raise NotAvailable(what="tile_backend.walkthrough", instead=instead)
