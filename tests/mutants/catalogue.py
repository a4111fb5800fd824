"""Every mutant, by area."""

from __future__ import annotations

import dataclasses
from types import ModuleType

from tests.mutants.areas import (
    checking,
    deciding,
    gradients,
    identities,
    keeping,
    legality,
    limits,
    masks,
    matching,
    rewriting,
    writes,
)
from tests.mutants.mutant import Mutant


@dataclasses.dataclass(frozen=True)
class Area:
    """title: the first line of the module's docstring, without its full stop."""

    title: str
    mutants: tuple[Mutant, ...]

    @classmethod
    def of(cls, module: ModuleType) -> Area:
        return cls((module.__doc__ or "").splitlines()[0].rstrip("."), tuple(module.MUTANTS))


AREAS = {
    module.__name__.rpartition(".")[2]: Area.of(module)
    for module in (
        legality,
        writes,
        identities,
        matching,
        masks,
        rewriting,
        gradients,
        keeping,
        deciding,
        checking,
        limits,
    )
}
MUTANTS = tuple(mutant for area in AREAS.values() for mutant in area.mutants)
QUICK = ("nothing-is-found", "interior-values-may-escape", "budget-doubled")
"""Of different areas, and killed within a few seconds: for continuous integration."""


def area_of(mutant: Mutant) -> str:
    """The name of its module."""
    return next(name for name, area in AREAS.items() if mutant in area.mutants)
