"""Traced patterns as bytes, and back: their terms, but not the fusions that declare them.

Tracing takes some hundred milliseconds, reading a twentieth of that. Functions of a spelling are
no part of the bytes: fusions and spellings stand in them by name and place, so the reader must have
the same declarations. Only the user's own caches are read: like Inductor's, this one is a pickle.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterable, Sequence
from typing import Any

from tile_backend.lowering.fusion import Fusion
from tile_backend.lowering.trace import Pattern


def packed(patterns: Sequence[Pattern], fusions: Iterable[Fusion]) -> bytes:
    """fusions: those that the patterns are of."""
    names = {id(declared): name for name, declared in declarations(fusions).items()}
    stream = io.BytesIO()

    class Pickler(pickle.Pickler):
        def persistent_id(self, found: Any) -> Any:
            return names.get(id(found))

    Pickler(stream, protocol=pickle.HIGHEST_PROTOCOL).dump(tuple(patterns))
    return stream.getvalue()


def unpacked(content: bytes, fusions: Iterable[Fusion]) -> tuple[Pattern, ...]:
    """Raises whatever pickle raises for bytes that are not `packed`."""
    known = declarations(fusions)

    class Unpickler(pickle.Unpickler):
        def persistent_load(self, name: Any) -> Any:
            return known[name]

    found = Unpickler(io.BytesIO(content)).load()
    if not isinstance(found, tuple) or not all(isinstance(each, Pattern) for each in found):
        raise pickle.UnpicklingError("these are no patterns")
    return found


def declarations(fusions: Iterable[Fusion]) -> dict[tuple[str, int], object]:
    """Each fusion as place -1, its spellings by their places."""
    return {
        (fusion.name, place): declared
        for fusion in fusions
        for place, declared in enumerate((fusion, *fusion.spellings), start=-1)
    }
