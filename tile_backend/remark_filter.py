"""The filter language of `tilegym.remarks`: `kind[:fusion][@module]`, separated by commas.

kind is `fused`, `declined`, `near-miss` or `analysis`; fusion may hold `*`; module is a glob as in
`tilegym.include`. "near-miss:attention@model.layers.0.*,declined" logs the near misses of attention
in layer 0 and everything that was declined. The empty filter logs nothing.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import re
from typing import ClassVar

from tile_backend.errors import BadOptionValue
from tile_backend.globs import covers

KINDS = ("fused", "declined", "near-miss", "analysis")
CLAUSE = re.compile(r"(?P<kind>[a-z-]+)(:(?P<fusion>[\w*?]+))?(@(?P<module>[^\s@,:]+))?")


@dataclasses.dataclass(frozen=True)
class Clause:
    """One part of a filter; what is left out accepts everything."""

    kind: str
    fusion: str = "*"
    module: str = "*"

    def accepts(self, kind: str, fusion: str, module: str) -> bool:
        """True if all three agree."""
        return (
            kind == self.kind
            and fnmatch.fnmatchcase(fusion, self.fusion)
            and covers(self.module, module)
        )


@dataclasses.dataclass(frozen=True)
class RemarkFilter:
    """A remark passes if one of the clauses accepts it."""

    clauses: tuple[Clause, ...]

    GRAMMAR: ClassVar[str] = (
        "kind[:fusion][@module-glob], separated by commas, with kind one of " + ", ".join(KINDS)
    )

    @classmethod
    def parse(cls, text: str, key: str = "tilegym.remarks") -> RemarkFilter:
        """Raises `BadOptionValue`, naming the clause at fault."""
        clauses = []
        for part in filter(None, (part.strip() for part in text.split(","))):
            match = CLAUSE.fullmatch(part)
            if match is None or match["kind"] not in KINDS:
                raise BadOptionValue(key=key, value=part, allowed=cls.GRAMMAR)
            clauses.append(Clause(match["kind"], match["fusion"] or "*", match["module"] or "*"))
        return cls(tuple(clauses))

    def accepts(self, kind: str, fusion: str, module: str) -> bool:
        """True if a remark about this module path passes."""
        return any(clause.accepts(kind, fusion, module) for clause in self.clauses)
