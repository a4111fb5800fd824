"""What the backend did with one callable: its sites, its graphs, and where capture stopped.

A Report is a value built from plain data: it pickles, prints (`to_text`, one screen), serialises
(`to_json`, schema in docs/report.schema.json) and saves (`save`, the whole dump). A callable that
has several graphs gets one report, made by `extended` as the graphs come.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tile_backend import graph_diff, report_json, report_text

if TYPE_CHECKING:
    from tile_backend.lowering.reason import Reason
    from tile_backend.lowering.site import Site, Status

__all__ = ["GraphFacts", "Report"]


@dataclasses.dataclass(frozen=True)
class GraphFacts:
    """What is known about one graph, besides its sites.

    dtypes:       of its floating-point inputs, the commonest first: ("bfloat16", "float32").
    symbols:      its dynamic sizes, as Dynamo names them: ("s27", "s53").
    ops:          how many calls it holds.
    break_reason: why Dynamo ended it early, with file and line, or "".
    anchored:     fusions whose anchor ops occur, found or not.
    unclaimed:    those of which an anchor is part of no site, not even of a near miss.
    failures:     of ours, where no site has them for its reason; what they were about was left out.
    """

    dtypes: tuple[str, ...] = ()
    symbols: tuple[str, ...] = ()
    ops: int = 0
    break_reason: str = ""
    anchored: tuple[str, ...] = ()
    unclaimed: tuple[str, ...] = ()
    failures: tuple[Reason, ...] = ()


@dataclasses.dataclass(frozen=True)
class Report:
    """See the module. `Site.graph` is an index into `graphs`.

    title:    the class of the model or the name of the function.
    complete: False where Dynamo would have had to run real code to go on.
    stopped:  where and why it stopped, one sentence with file and line.
    seconds:  wall time that our passes took, over all graphs; not part of the JSON.
    texts:    of each graph what a dump shows of it: "before" and "after" the rewrite, the generated
              code of its "forward" and "backward". Empty where nobody wanted a dump.
    """

    title: str
    sites: tuple[Site, ...] = ()
    graphs: tuple[GraphFacts, ...] = ()
    complete: bool = True
    stopped: str = ""
    seconds: float = dataclasses.field(default=0.0, compare=False)
    texts: tuple[Mapping[str, str], ...] = dataclasses.field(default=(), compare=False, repr=False)

    @property
    def counts(self) -> dict[str, int]:
        """Fused sites by fusion, sorted by name."""
        return dict(sorted(collections.Counter(s.fusion for s in self.fused).items()))

    @property
    def fused(self) -> tuple[Site, ...]:
        """The sites that were fused, whatever runs there."""
        return self.having("fused")

    def having(self, status: Status) -> tuple[Site, ...]:
        """The sites of one status, in the order found."""
        return tuple(site for site in self.sites if site.status == status)

    @property
    def anchored(self) -> tuple[str, ...]:
        """Every fusion that some graph holds anchor ops of, sorted."""
        return tuple(sorted({fusion for facts in self.graphs for fusion in facts.anchored}))

    def extended(
        self, sites: Iterable[Site], facts: GraphFacts, texts: Mapping[str, str] | None = None
    ) -> Report:
        """This report with one more graph; its sites are renumbered to it. texts: see `Report`."""
        index = len(self.graphs)
        added = tuple(dataclasses.replace(site, graph=index) for site in sites)
        return dataclasses.replace(
            self,
            sites=self.sites + added,
            graphs=(*self.graphs, facts),
            texts=(*self.texts, dict(texts or {})),
        )

    def timed(self, seconds: float) -> Report:
        """This report with more time of our passes."""
        return dataclasses.replace(self, seconds=self.seconds + seconds)

    def ended(self, where: str) -> Report:
        """This report, incomplete: `where` says what Dynamo would have had to run."""
        return dataclasses.replace(self, complete=False, stopped=where)

    def to_text(self) -> str:
        """One screen of plain text, layers folded, without a trailing newline."""
        return report_text.render(self)

    def to_json(self) -> str:
        """Everything, as JSON with a `schema_version`; keys and order are stable."""
        return report_json.dumps(self)

    def save(self, folder: str | Path) -> Path:
        """Write the dump (see `graph_diff`); raises `ReportFolderError`."""
        return graph_diff.save(self, Path(folder))

    def __str__(self) -> str:
        return self.to_text()
