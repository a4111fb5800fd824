"""The fusions that this process knows: the built-in ones and those a user registered."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tile_backend.lowering.fusion import Fusion

_registered: dict[str, Fusion] = {}


def register(fusion: Fusion) -> None:
    """Add a user's own fusion, or replace the one of the same name that was registered before.

    It takes part in every later compile of this process and in the cache identity. Raises
    ValueError where the name is a built-in fusion's, or where a spelling or near miss calls
    something that has no canonical meaning.
    """
    from tile_backend.lowering.registry import registry
    from tile_backend.lowering.trace import Unknown
    from tile_backend.patterns import all_fusions

    if any(fusion.name == known.name for known in all_fusions()):
        raise ValueError(f"{fusion.name!r} is a built-in fusion; give yours another name")
    try:
        derived = registry((fusion,))
        _ = derived.patterns, derived.near_misses
    except Unknown as error:
        raise ValueError(
            f"{fusion.name!r} cannot be matched: {error}. Spell it with operations that"
            " lowering/vocabulary_*.py has a word for, or add the word there"
        ) from error
    _registered[fusion.name] = fusion


def unregister(name: str) -> None:
    """Forget a registered fusion; KeyError where none has that name."""
    del _registered[name]


def known_fusions() -> tuple[Fusion, ...]:
    """Built-in and registered fusions, sorted by name."""
    from tile_backend.patterns import all_fusions

    return tuple(sorted((*all_fusions(), *_registered.values()), key=lambda fusion: fusion.name))


def names() -> tuple[str, ...]:
    """The names of all known fusions, sorted."""
    return tuple(fusion.name for fusion in known_fusions())


def user_fusions() -> tuple[Fusion, ...]:
    """The registered fusions alone, in the order of their registration."""
    return tuple(_registered.values())
