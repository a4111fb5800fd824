"""A report as one screen of plain text.

First the totals, then the counts by fusion, then one line per distinct thing that happened, with
layers folded: what was fused and what runs there, what was declined and why, what almost matched.
Nothing is shown that was not measured or found. Long reports say how many lines were left out.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from tile_backend.site_group import SiteGroup, by_remark

if TYPE_CHECKING:
    from tile_backend.lowering.site import Decision, Site
    from tile_backend.report import GraphFacts, Report

SCREEN = {"fused": 14, "declined": 8, "near-miss": 8}
"""How many lines each status gets before the rest is only counted."""
WIDEST = 72
"""Characters to which a column is padded; longer cells stick out."""
LABELS = {"fused": "fused", "declined": "declined", "near-miss": "near miss"}
DECISIONS = {"kernel": "run a kernel", "interpreted": "interpreted"}


def render(report: Report) -> str:
    """The whole text; see the module."""
    lines = [headline(report)]
    if report.counts:
        lines.append("  " + "  ".join(f"{name} {n}" for name, n in report.counts.items()))
    rows = [row for status in SCREEN for row in status_rows(report.sites, status)]
    lines += aligned(rows)
    lines += decision_lines(report.fused)
    lines += certificate_lines(report.fused)
    lines += [
        f"graph {i} ended: {g.break_reason}" for i, g in enumerate(report.graphs) if g.break_reason
    ]
    lines += [f"graph {i}: {why}" for i, g in enumerate(report.graphs) for why in failures(g)]
    if not report.complete:
        lines.append(f"incomplete  {report.stopped}")
    return "\n".join(line.rstrip() for line in lines)


def summary(report: Report) -> str:
    """The totals: "11 sites fused, 1 declined, 0 near misses"."""
    fused, declined, near = (len(report.having(s)) for s in ("fused", "declined", "near-miss"))
    return (
        f"{fused} site{plural(fused)} fused, {declined} declined, "
        f"{near} near miss{plural(near, 'es')}"
    )


def headline(report: Report) -> str:
    """The totals and what they are about."""
    return f"tilegym: {summary(report)}   ({', '.join(facts(report))})"


def facts(report: Report) -> list[str]:
    """Number of graphs, title, dtypes, dynamic sizes; what is unknown is left out."""
    graphs = len(report.graphs)
    found = [f"{graphs} graph{plural(graphs)}" if graphs != 1 else "graph 1/1", report.title]
    dtypes = dict.fromkeys(dtype for graph in report.graphs for dtype in graph.dtypes)
    symbols = dict.fromkeys(symbol for graph in report.graphs for symbol in graph.symbols)
    if dtypes:
        found.append("+".join(dtypes))
    if symbols:
        found.append(f"{','.join(symbols)} dynamic")
    return [fact for fact in found if fact]


def status_rows(sites: Iterable[Site], status: str) -> list[Sequence[str]]:
    """The rows of one status, cut to its share of the screen."""
    groups = by_remark(site for site in sites if site.status == status)
    limit = SCREEN[status]
    rows: list[Sequence[str]] = [row(group) for group in groups[:limit]]
    if len(groups) > limit:
        rest = sum(len(group.sites) for group in groups[limit:])
        rows.append((LABELS[status], f"... and {rest} more sites: see report.save(folder)"))
    return rows


def row(group: SiteGroup) -> Sequence[str]:
    """Label, fusion and count, modules, source, sentence."""
    site = group.first
    return (
        LABELS[site.status],
        site.fusion + group.count,
        group.modules,
        site.source,
        sentence(site),
    )


def sentence(site: Site) -> str:
    """Why, and what to do; for a fused site, what runs."""
    said = what_runs(site.decision) if site.decision else site.progress
    why = site.reason or site.fallback
    lacks = site.certificate and site.certificate.verdict == "not certified"
    parts = (said, why.text if why else "", str(site.certificate) if lacks else "")
    text = "; ".join(part for part in parts if part)
    return f"{text}. fix: {why.fix}" if why and why.fix else text


def failures(facts: GraphFacts) -> list[str]:
    """Of ours, as sentences."""
    return [f"{why.text}. fix: {why.fix}" if why.fix else why.text for why in facts.failures]


def decision_lines(fused: Iterable[Site]) -> list[str]:
    """What runs at the fused sites, one line per distinct evidence."""
    return [f"{said} x{count}: {evidence}" for said, count, evidence in decisions(fused, True)]


def decisions(fused: Iterable[Site], aged: bool = False) -> list[tuple[str, int, str]]:
    """What runs, at how many sites, and the evidence; the most frequent first.

    aged: with the ages of measurements, else with their dates.
    """
    decided = collections.Counter(
        (what_runs(d), d.said if aged else d.evidence) for site in fused if (d := site.decision)
    )
    return [(said, n, evidence) for (said, evidence), n in decided.most_common() if evidence]


def certificate_lines(fused: Iterable[Site]) -> list[str]:
    """What certificates say: "certified x9, worst 41% of its budget", and each that is missing."""
    found = [site.certificate for site in fused if site.certificate]
    good = [c for c in found if c.verdict == "certified"]
    worst = max((c.used for c in good if c.used is not None), default=0.0)
    lines = [f"certified x{len(good)}, worst {worst:.0%} of its budget"] if good else []
    others = collections.Counter(c for c in found if c.verdict != "certified")
    return lines + [
        f"{'FAILED' if c.verdict == 'failed' else c.verdict} x{count}: {c.text}"
        for c, count in others.most_common()
    ]


def what_runs(decision: Decision) -> str:
    """A decision in words."""
    plain = "run the op's reference" if decision.op_in_graph else "left to Inductor"
    return "respelled for Inductor" if decision.respelled else DECISIONS.get(decision, plain)


def aligned(rows: Sequence[Sequence[str]], widest: int = WIDEST) -> list[str]:
    """Columns of equal width, all but the last of each row padded, none to more than `widest`."""
    widths: dict[int, int] = {}
    for cells in rows:
        for column, cell in enumerate(cells[:-1] if len(cells) > 2 else cells[:1]):
            widths[column] = min(widest, max(widths.get(column, 0), len(cell)))
    return ["  ".join(cell.ljust(widths.get(i, 0)) for i, cell in enumerate(row)) for row in rows]


def plural(count: int, ending: str = "s") -> str:
    """The ending of a noun that follows the count."""
    return "" if count == 1 else ending
