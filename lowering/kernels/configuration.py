"""How a kernel is launched where there is a choice: tile sizes, and hints for the compiler.

A plan says what it chooses, `tile = choose(row_tile(width))`, and takes what it is given back:
`as_planned` is the identity. `everything` lists what else a plan could be given. The text of a
configuration, "rows=1,block=2048,warps=8,occupancy=4", is its name where measurements are kept.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Protocol, Self, TypeVar

UNSAID = {"said": False}
"""Metadata of a field that is no choice: what the choice depends on."""

Values = Mapping[str, Sequence[int | None]]


@dataclasses.dataclass(frozen=True)
class Configuration:
    """Base of the choices of a kind of kernel; fields are ints, or None for the compiler's choice.

    warps: worker warps of a block. occupancy: blocks of a multiprocessor that the compiler leaves
    registers for. streams: such a kernel waits for memory more than it computes.
    """

    streams: ClassVar[bool] = True

    def __str__(self) -> str:
        values = ((f.name, getattr(self, f.name)) for f in said(self))
        return ",".join(f"{name}={value}" for name, value in values if value is not None)

    @property
    def hints(self) -> dict[str, int]:
        """Of `ct.kernel`."""
        named = {"num_worker_warps": "warps", "occupancy": "occupancy"}
        values = {hint: getattr(self, name, None) for hint, name in named.items()}
        return {hint: value for hint, value in values.items() if value is not None}

    def space(self) -> Values:
        """By field, what else may be tried; a field that is not named stays."""
        return {}

    def fits(self) -> bool:
        """Whether a kernel may be launched so."""
        return True

    def all(self) -> Iterator[Self]:
        """Itself, then everything in its space that fits."""
        yield self
        space = self.space()
        for values in itertools.product(*space.values()):
            other = dataclasses.replace(self, **dict(zip(space, values, strict=True)))
            if other != self and other.fits():
                yield other


def said(configuration: Configuration) -> Iterator[dataclasses.Field[Any]]:
    """The fields that are the choice."""
    for field in dataclasses.fields(configuration):
        if field.metadata.get("said", True):
            yield field


C = TypeVar("C", bound=Configuration)


class Choose(Protocol):
    """What a plan asks: given its own choice, the one to take."""

    def __call__(self, planned: C, /) -> C: ...


def as_planned(planned: C, /) -> C:
    """The plan's own choice."""
    return planned


class UnknownConfigurationError(LookupError):
    """A plan has no configuration of that name."""


class Named:
    """Chooses the configuration of that text. Raises UnknownConfigurationError."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __call__(self, planned: C, /) -> C:
        for configuration in planned.all():
            if str(configuration) == self.text:
                return configuration
        raise UnknownConfigurationError(f"the kernel has no configuration {self.text!r}")


def everything(plan: Callable[[Choose], Any]) -> list[Configuration]:
    """What the plan can choose from, its own choice first; nothing where it has no choice.

    plan: given how to choose, plans. Raises what it raises.
    """
    found: list[Configuration] = []

    def note(planned: C, /) -> C:
        found[:] = planned.all()
        return planned

    plan(note)
    return found


def around(size: int, least: int, most: int) -> list[int]:
    """Half of a size, the size and twice it, as far as they are within bounds."""
    return [n for n in (size // 2, size, 2 * size) if least <= n <= most]
