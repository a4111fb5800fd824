"""What was tried and what came of it, as numbers that add up over processes.

"Right" says little unless many sites were rewritten: so sites are counted by fusion and option, and
what was declined by its reason.
"""

from __future__ import annotations

import collections
import dataclasses
from collections import Counter
from collections.abc import Mapping
from typing import Any

from tests.fuzz.ways import Tried, Way, is_rewritten
from tile_backend.lowering.site import Site


@dataclasses.dataclass
class Failure:
    """number: of the program in its row. text: what is wrong. script: the reduced program."""

    number: int
    way: str
    kind: str
    text: str
    script: str


@dataclasses.dataclass
class Tally:
    """commits: where the programs were run. ways, verdicts, refusals, certificates: of programs or
    sites, by their words.

    rewritten: by fusion and option, "rms_norm always". declined: by fusion and kind of reason.
    statements: of the programs that were right, by what they are for.
    """

    programs: int = 0
    commits: Counter[str] = dataclasses.field(default_factory=Counter)
    ways: Counter[str] = dataclasses.field(default_factory=Counter)
    verdicts: Counter[str] = dataclasses.field(default_factory=Counter)
    refusals: Counter[str] = dataclasses.field(default_factory=Counter)
    rewritten: Counter[str] = dataclasses.field(default_factory=Counter)
    declined: Counter[str] = dataclasses.field(default_factory=Counter)
    certificates: Counter[str] = dataclasses.field(default_factory=Counter)
    statements: Counter[str] = dataclasses.field(default_factory=Counter)
    failures: list[Failure] = dataclasses.field(default_factory=list)

    def add(self, tried: Tried, way: Way) -> None:
        """One program."""
        self.programs += 1
        self.ways[f"{way.capture} {way.kernels}"] += 1
        self.verdicts[tried.verdict.kind] += 1
        if tried.verdict.kind == "refused":
            self.refusals[said_shortly(tried.verdict.text)] += 1
        if tried.verdict.kind.startswith("right"):
            self.statements.update({s.kind for s in tried.program.statements})
        for site in tried.sites:
            self.count(site, way)

    def count(self, site: Site, way: Way) -> None:
        if is_rewritten(site):
            self.rewritten[f"{site.fusion} {way.kernels}"] += 1
        elif site.reason is not None:
            self.declined[f"{site.fusion} {site.reason.kind}"] += 1
        if site.certificate is not None:
            self.certificates[site.certificate.verdict] += 1

    def merge(self, other: Tally) -> None:
        self.programs += other.programs
        for field in dataclasses.fields(self):
            mine = getattr(self, field.name)
            if isinstance(mine, Counter):
                mine.update(getattr(other, field.name))
        self.failures += other.failures

    def by_fusion(self) -> list[dict[str, Any]]:
        """One row for each fusion: what was rewritten under each option, and what was declined."""
        rows: dict[str, dict[str, Any]] = collections.defaultdict(
            lambda: {"rewritten": {}, "declined": {}}
        )
        for what in ("rewritten", "declined"):
            for words, count in sorted(getattr(self, what).items()):
                fusion, _, option = words.partition(" ")
                rows[fusion][what][option] = count
        return [{"fusion": fusion, **row} for fusion, row in sorted(rows.items())]

    def to_json(self) -> dict[str, Any]:
        content = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        counts = {n: dict(sorted(v.items())) for n, v in content.items() if isinstance(v, Counter)}
        return {
            **content,
            **counts,
            "failures": [dataclasses.asdict(failure) for failure in self.failures],
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Tally:
        failures = [Failure(**failure) for failure in content["failures"]]
        counters = {n: Counter(v) for n, v in content.items() if isinstance(v, dict)}
        return cls(programs=content["programs"], failures=failures, **counters)


def said_shortly(text: str) -> str:
    """The first words of a message, without its numbers and names."""
    first = (text.splitlines() or [""])[0]
    return " ".join("".join(c if c.isalpha() or c in ": '" else " " for c in first).split())[:70]
