"""One line per distinct decision, logged through `tile_backend.remarks`.

Grammar: `fused | declined | near-miss | analysis`, fusion and count, folded module path,
`file:line`, one sentence, and the fix where one is known. Each compile logs one summary at INFO; a
model that holds anchors of our fusions and got none fused is a WARNING with the main reason; the
remarks themselves are DEBUG, so that TORCH_LOGS="+tile_backend" shows every decision.
"""

from __future__ import annotations

import collections
import dataclasses
import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING

from tile_backend.lowering.site import WEIGHED
from tile_backend.remark_filter import RemarkFilter
from tile_backend.report_text import failures, sentence, summary
from tile_backend.site_group import by_remark

if TYPE_CHECKING:
    from tile_backend.lowering.site import Site
    from tile_backend.options import Options
    from tile_backend.report import Report

LOGGER = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Remark:
    """One distinct decision.

    modules: the folded paths of all sites it speaks about.  count: how many there are.
    """

    kind: str
    fusion: str
    modules: str
    source: str
    sentence: str
    count: int = 1

    def __str__(self) -> str:
        """The remark as one line; parts that are not known are left out."""
        count = f"x{self.count}" if self.count > 1 else ""
        where = (self.kind, self.fusion, count, self.modules, self.source)
        return " ".join(part for part in where if part) + (self.sentence and f": {self.sentence}")


def remarks(report: Report, wanted: RemarkFilter) -> list[Remark]:
    """The remarks about a report that pass the filter; sites are filtered before folding."""
    accepted = (s for s in report.sites if wanted.accepts(s.status, s.fusion, s.module))
    found = [
        Remark(
            kind=group.first.status,
            fusion=group.first.fusion,
            modules=group.modules,
            source=group.first.source,
            sentence=sentence(group.first) + weighed(group.first),
            count=len(group.sites),
        )
        for group in by_remark(accepted)
    ]
    return found + [r for r in analysis(report) if wanted.accepts(r.kind, r.fusion, "")]


def weighed(site: Site) -> str:
    """The evidence for what runs at a site, where there was something to weigh."""
    decision = site.decision
    return f": {decision.said}" if decision is not None and decision.basis in WEIGHED else ""


def analysis(report: Report) -> list[Remark]:
    """What is not about one site: why graphs ended, failures, fusions with nothing but anchors."""
    found = [
        Remark("analysis", "", f"graph {index}", "", f"ended early: {facts.break_reason}")
        for index, facts in enumerate(report.graphs)
        if facts.break_reason
    ]
    found += [
        Remark("analysis", "", f"graph {index}", "", text)
        for index, facts in enumerate(report.graphs)
        for text in failures(facts)
    ]
    if not report.complete:
        found.append(Remark("analysis", "", "", "", f"capture stopped: {report.stopped}"))
    unclaimed = sorted({fusion for facts in report.graphs for fusion in facts.unclaimed})
    return found + [
        Remark("analysis", fusion, "", "", "an anchor op occurs, but no spelling came close")
        for fusion in unclaimed
    ]


def emit(report: Report, options: Options, fused_elsewhere: bool = False) -> None:
    """Log one compile: its summary, a warning if nothing was fused, each remark of the filter.

    fused_elsewhere: another graph of the same callable has fused sites, so nothing is amiss.
    """
    counts = ", ".join(f"{name} {count}" for name, count in report.counts.items())
    LOGGER.info("%s: %s%s", report.title, summary(report), counts and f" ({counts})")
    if not fused_elsewhere and (nothing := nothing_fused(report)):
        LOGGER.warning("%s", nothing)
    if LOGGER.isEnabledFor(logging.DEBUG):  # folding is work: none of it when nobody listens
        for remark in remarks(report, RemarkFilter.parse(options.remarks)):
            LOGGER.debug("%s", remark)


def nothing_fused(report: Report) -> str:
    """The sentence for a model that looks fusible and of which nothing was fused, else ""."""
    others = [site for site in report.sites if site.status != "fused"]
    hoped = sorted({*report.anchored, *(site.fusion for site in others)})
    if report.fused or not hoped:
        return ""
    return (
        f"{report.title}: nothing was fused, although it holds ops of {', '.join(hoped)}. "
        f"Main reason: {main_reason(others)}"
    )


def main_reason(sites: Iterable[Site]) -> str:
    """The most frequent obstacle, with the first place where it occurs."""
    groups = by_remark(sites)
    if not groups:
        return "no spelling of them came close; TORCH_LOGS='+tile_backend' shows every decision."
    weights = collections.Counter({i: len(group.sites) for i, group in enumerate(groups)})
    group = groups[weights.most_common(1)[0][0]]
    site = group.first
    place = " ".join(part for part in (group.modules, site.source) if part)
    return f"{site.fusion}{group.count} at {place}: {sentence(site)}"
