"""One stage of a walk-through: what it is in a few sentences, and what it made.

Plain data: the text, the terminal and the page are views of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator

LINES = 24
"""Of an artefact, shown unless it says which ones matter."""


@dataclasses.dataclass(frozen=True)
class Artefact:
    """Something that a stage made.

    text:     all of it.
    language: "python", "diff" or "text", for colours.
    shown:    the numbers of the lines that matter, from 0; None: the first LINES.
    """

    title: str
    text: str
    language: str = "text"
    shown: tuple[int, ...] | None = None

    @property
    def lines(self) -> list[str]:
        return self.text.rstrip("\n").split("\n")

    @property
    def excerpt(self) -> list[str]:
        """The lines that matter, with "..." where lines between them are left out."""
        return list(self._excerpt())

    @property
    def left_out(self) -> int:
        """How many lines the excerpt lacks."""
        return len(self.lines) - len(self._kept())

    def _kept(self) -> list[int]:
        number = len(self.lines)
        wanted = range(number) if self.shown is None else self.shown
        kept = sorted({place for place in wanted if 0 <= place < number})
        return kept[:LINES] if self.shown is None else kept

    def _excerpt(self) -> Iterator[str]:
        lines, before = self.lines, -1
        for place in self._kept():
            if place > before + 1:
                indent = lines[place][: len(lines[place]) - len(lines[place].lstrip())]
                yield f"{indent}..."
            yield lines[place]
            before = place


@dataclasses.dataclass(frozen=True)
class Stage:
    """name: one word, "dynamo". says: a few sentences.

    missing: what is not there, and what to do; or "".
    """

    name: str
    title: str
    says: str
    artefacts: tuple[Artefact, ...] = ()
    missing: str = ""


def around(places: Iterable[int], reach: int) -> tuple[int, ...]:
    """The places with as many neighbours on each side."""
    return tuple(sorted({p + d for p in places for d in range(-reach, reach + 1)}))


def between(text: str, first: str, last: str) -> tuple[int, ...] | None:
    """The numbers of the lines from the first that holds `first` to the next that holds `last`.

    None where there is no such line.
    """
    lines = text.split("\n")
    start = next((i for i, line in enumerate(lines) if first in line), None)
    if start is None:
        return None
    end = next((i for i in range(start, len(lines)) if last in lines[i]), len(lines) - 1)
    return tuple(range(start, end + 1))


def sentences(*parts: str) -> str:
    """Those that are not empty, as one paragraph."""
    return " ".join(part for part in parts if part)
