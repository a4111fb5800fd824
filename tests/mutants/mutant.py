"""A mutant as data: which text of which file becomes what, and which tests should notice."""

from __future__ import annotations

import dataclasses
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SPELLED = ("fusion", "identities", "meta_results", "node", "shapes", "terms", "trace", "vocabulary")
"""How the names of the files begin that have a part in tracing spellings, and all of patterns/."""
PACKAGES = {"lowering": "tile_backend.lowering", "patterns": "tile_backend.patterns"}


class Stale(Exception):
    """The file does not have the text exactly once any more."""


@dataclasses.dataclass(frozen=True)
class Mutant:
    """name: in words, with hyphens. file: relative to the checkout. old: occurs in it exactly once.

    tests: node ids of pytest, in the order in which they run; the first that fails kills it.
    equal: why nothing that could be noticed changes; then the tests have to pass.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    equal: str = ""

    @property
    def module(self) -> str:
        """What the file is imported as."""
        top, *rest = self.file.removesuffix(".py").split("/")
        return ".".join([PACKAGES.get(top, top), *rest])

    @property
    def is_of_spellings(self) -> bool:
        """Whether patterns may be others with it, so that none that are kept may be read."""
        folder, _, name = self.file.rpartition("/")
        return folder == "patterns" or name.startswith((*SPELLED, "pattern"))

    def mutated(self) -> str:
        """The file with the change. Raises Stale."""
        source = (ROOT / self.file).read_text(encoding="utf-8")
        count = source.count(self.old)
        if count != 1:
            raise Stale(f"{self.file} has the text of {self.name} {count} times")
        return source.replace(self.old, self.new)

    def change(self) -> dict[str, str]:
        """What a row of the outcome has of it, to be compared with later."""
        return {"file": self.file, "old": self.old, "new": self.new, "equal": self.equal}
