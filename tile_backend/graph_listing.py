"""The graph before and after the rewrite, as two texts that mark what changed.

Read while the graph is there: `Before` in front of the rewrite, `texts` behind it. Only where a
dump is wanted.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from tile_backend.lowering import listing, python_text

if TYPE_CHECKING:
    from torch import fx

    from tile_backend.lowering.listing import Row
    from tile_backend.lowering.site import Site

HEAD = """{title}, {when}: {ops} ops.

Beside an op: a mark with a fusion ({mark}, = found and left as it is), the type of
the result, the line of the model and its code (" is the code above). self["..."] is what
a module holds.
"""
BEFORE = "the graph that Dynamo captured", "- taken out"
AFTER = "the graph that Inductor gets", "+ put in"


@dataclasses.dataclass(frozen=True)
class Before:
    """The graph before the rewrite. prefix: see listing.rows."""

    title: str
    rows: list[Row]
    prefix: str = ""

    @classmethod
    def of(cls, module: fx.GraphModule, title: str, prefix: str = "") -> Before:
        return cls(title, listing.rows(module, prefix), prefix)

    def texts(self, module: fx.GraphModule, sites: Iterable[Site]) -> dict[str, str]:
        """`before` and `after`. module: the same graph, rewritten."""
        found = tuple(sites)
        after = listing.rows(module, self.prefix)
        return {
            "before": self.text(self.rows, marks("-", self.rows, after, found), BEFORE),
            "after": self.text(after, marks("+", after, self.rows, found), AFTER),
        }

    def text(self, rows: list[Row], marked: listing.Marks, words: tuple[str, str]) -> str:
        when, mark = words
        ops = sum(bool(row.source) for row in rows)
        title = python_text.docstring(self.title)
        head = HEAD.format(title=title, when=when, mark=mark, ops=ops).rstrip()
        return listing.text(self.title, head, rows, marked)


def marks(
    sign: str, rows: Iterable[Row], others: Iterable[Row], sites: Iterable[Site]
) -> Mapping[tuple[str, str], str]:
    """Of the rows that belong to a site: `sign` for those that the other graph does not have."""
    there = {row.key for row in others}
    ops, places = dict[tuple[str, str], str](), dict[tuple[str, str], str]()
    for site in sites:
        if site.status != "near-miss":
            places[site.module, site.source] = site.fusion
            ops |= {(line.name, line.source): site.fusion for line in site.before}
    found = {}
    for row in rows:
        fusion = ops.get((row.name, row.source))
        if row.key in there and fusion:
            found[row.key] = f"= {fusion}"
        elif row.key not in there and row.source:
            module = row.modules[-1][0] if row.modules else ""
            found[row.key] = f"{sign} {fusion or places.get((module, row.source), '')}".rstrip()
    return found
