"""The fusions in force, with everything derived from them that does not depend on a graph.

Tracing the spellings takes about as long as compiling one small kernel; it is done once per set of
fusions and kept, or is handed in by who has the patterns.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable

from tile_backend.lowering import failure
from tile_backend.lowering.fusion import Fusion, Spelling
from tile_backend.lowering.match import Matcher
from tile_backend.lowering.near_miss import NearMisses
from tile_backend.lowering.trace import Pattern, patterns

Traced = Callable[[tuple[Fusion, ...]], tuple[Pattern, ...]]
"""Every pattern of the fusions, in their order."""


def traced(fusions: tuple[Fusion, ...]) -> tuple[Pattern, ...]:
    return tuple(p for fusion in fusions for p in patterns(fusion))


@dataclasses.dataclass(frozen=True)
class Registry:
    """Some fusions, their patterns, and the two searches over those; made when first asked for."""

    fusions: tuple[Fusion, ...]
    traced: Traced = traced

    @functools.cached_property
    def patterns(self) -> tuple[Pattern, ...]:
        return self.traced(self.fusions)

    @functools.cached_property
    def matcher(self) -> Matcher:
        return Matcher(self.patterns)

    @functools.cached_property
    def near_misses(self) -> NearMisses:
        usable = [p for p in self.patterns if p.spelling.declined is None]
        return NearMisses(usable, functools.partial(declared_near_misses, self.fusions))


def declared_near_misses(fusions: Iterable[Fusion]) -> list[Pattern]:
    """The patterns of the forms that a fusion says it is not."""
    found = list[Pattern]()
    for fusion in fusions:
        what = f"tracing the near misses of {fusion.name}"
        found += failure.instead([], what, None, not_meant, fusion)
    return found


def not_meant(fusion: Fusion) -> list[Pattern]:
    spellings = tuple(Spelling(function) for function in fusion.near_misses)
    return list(patterns(dataclasses.replace(fusion, spellings=spellings)))


@functools.lru_cache(maxsize=8)
def registry(fusions: tuple[Fusion, ...], traced: Traced = traced) -> Registry:
    return Registry(fusions, traced)
