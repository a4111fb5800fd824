"""What changed between two reports of a model, say before and after an upgrade of Transformers.

A site is the same if fusion, module and, of several there, its number agree. Changes that are alike
in many layers are one line.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from tile_backend.folding import fold_to_text
from tile_backend.report_text import aligned
from tile_backend.saved_report import SavedReport, SavedSite

KINDS = ("lost", "gained", "changed", "obstacle")
"""No longer fused; fused only now; fused in another way; not fused, for another reason."""


@dataclasses.dataclass(frozen=True)
class Change:
    """One line. text: what it was and what it is."""

    kind: str
    fusion: str
    source: str
    text: str


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The changes, each with the modules where it happened; and how many sites stayed."""

    before: SavedReport
    after: SavedReport
    changes: dict[Change, tuple[str, ...]]
    same: int

    def count(self, kind: str) -> int:
        """Sites that changed in this way."""
        return sum(len(modules) for change, modules in self.changes.items() if change.kind == kind)

    def to_text(self) -> str:
        """A head line, then one line for each change, the losses first."""
        counts = [f"{self.count(kind)} {kind}" for kind in KINDS]
        head = f"{title(self.before, self.after)}: {', '.join(counts)}, {self.same} the same"
        rows = [
            (
                change.kind,
                f"{change.fusion} x{len(modules)}" if len(modules) > 1 else change.fusion,
                fold_to_text(modules),
                change.source,
                change.text,
            )
            for kind in KINDS
            for change, modules in self.changes.items()
            if change.kind == kind
        ]
        return "\n".join([head, *self.notes(), *aligned(rows)])

    def notes(self) -> list[str]:
        """What makes the comparison itself doubtful."""
        found = []
        if self.before.version != self.after.version:
            found.append(f"tile-backend {self.before.version} -> {self.after.version}")
        for name, report in (("first", self.before), ("second", self.after)):
            if not report.complete:
                found.append(f"the {name} report is incomplete: it may lack sites")
        return found


def title(before: SavedReport, after: SavedReport) -> str:
    """Of both."""
    same = before.title == after.title
    return after.title if same else f"{before.title} -> {after.title}"


def compare(before: SavedReport, after: SavedReport) -> Comparison:
    """Site by site."""
    changes: dict[Change, tuple[str, ...]] = {}
    same = 0
    for name in dict.fromkeys((*before.sites, *after.sites)):
        old, new = before.sites.get(name), after.sites.get(name)
        site = new or old
        assert site is not None
        change = change_of(old, new)
        if change is None:
            same += 1
        else:
            changes[change] = (*changes.get(change, ()), site.module)
    return Comparison(before, after, changes, same)


def change_of(old: SavedSite | None, new: SavedSite | None) -> Change | None:
    """None where a person would read the same of both."""
    site = new or old
    assert site is not None
    was, now = is_fused(old), is_fused(new)
    if was and now:
        assert old is not None
        assert new is not None
        text = "; ".join(differences(old, new))
        return Change("changed", site.fusion, site.source, text) if text else None
    if was:
        return Change("lost", site.fusion, site.source, obstacle(new))
    if now:
        return Change("gained", site.fusion, site.source, f"was {obstacle(old)}")
    if obstacle(old) == obstacle(new):
        return None
    return Change("obstacle", site.fusion, site.source, f"{obstacle(old)} -> {obstacle(new)}")


def is_fused(site: SavedSite | None) -> bool:
    """Whether it is there, and fused."""
    return site is not None and site.status == "fused"


def obstacle(site: SavedSite | None) -> str:
    """Why it is not fused."""
    return "not there" if site is None else site.obstacle


def differences(old: SavedSite, new: SavedSite) -> Iterator[str]:
    """Of two fused sites: decision, spelling, and what was bound."""
    for name in ("choice", "spelling"):
        was, now = getattr(old, name), getattr(new, name)
        if was != now:
            yield f"{name} {was or 'none'} -> {now or 'none'}"
    for name in dict.fromkeys((*old.bindings, *new.bindings)):
        was, now = old.bindings.get(name, "none"), new.bindings.get(name, "none")
        if was != now:
            yield f"{name} {was} -> {now}"
