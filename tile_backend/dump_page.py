"""`index.html` of a dump: one static page, no server, no network.

The distinct rewrites, searchable, each of which opens to its ops before and after, what it binds,
its kernels and its sites; all sites by layers; links to the graphs; the source of kernels. Works
without scripts too; then only search and filter are missing. What it looks like is in
dump_page.html, dump_page.css, dump_page.js and page_style.css.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tile_backend import dump_sites, kernel_text, report_text
from tile_backend.graph_files import links, note
from tile_backend.lowering import failure, provenance
from tile_backend.page_template import rendered
from tile_backend.report_json import identities
from tile_backend.rewrite_entry import titles
from tile_backend.version import VERSION

if TYPE_CHECKING:
    from tile_backend.lowering.kernel_use import KernelUse
    from tile_backend.lowering.site import GraphLine
    from tile_backend.report import Report
    from tile_backend.rewrite_entry import RewriteEntry

SHOWN_ELSEWHERE = ("status", "source", "certificate", "kernel")
"""Facts that have a place of their own on the page."""


def page(report: Report, entries: Sequence[RewriteEntry], repros: frozenset[str]) -> str:
    """The page; `repros` are the names of the entries that have a repro.py."""
    anchors = dict(zip(map(id, report.sites), map(anchor, identities(report)), strict=True))
    sources = kernel_sources(report)

    def shown(entry: RewriteEntry) -> dict[str, Any]:
        return entry_object(entry, entry.name in repros, anchors, sources)

    with failure.noted() as notes:
        what = "showing the entry"
        objects = [failure.instead(None, f"{what} {e.name}", None, shown, e) for e in entries]
    return rendered(
        "dump_page.html",
        ("page_style.css", "dump_page.css"),
        "dump_page.js",
        title=report.title,
        version=VERSION,
        text=report.to_text(),
        kernels=sources,
        entries=[found for found in objects if found is not None],
        layers=dump_sites.by_layer(report, entries, anchors),
        graphs=[graph_object(report, index) for index in range(len(report.graphs))],
        **head(report, [str(why) for why in notes]),
    )


def anchor(identity: str) -> str:
    """The id of a site's place on the page: "site:0/rms_norm@model.norm"."""
    return f"site:{provenance.encodable(identity)}"


def head(report: Report, missing: Sequence[str] = ()) -> dict[str, Any]:
    """What is said of all of it. missing: what could not be shown, and why."""
    statuses = [
        (status, label, len(report.having(status)))  # type: ignore[arg-type]
        for status, label in report_text.LABELS.items()
    ]
    known = dict.fromkeys(site.fusion for site in report.sites)
    notices = [
        f"graph {i} ended: {graph.break_reason}"
        for i, graph in enumerate(report.graphs)
        if graph.break_reason
    ]
    for i, graph in enumerate(report.graphs):
        notices += [f"graph {i}: {text}" for text in report_text.failures(graph)]
    notices += missing
    if not report.complete:
        notices.append(f"incomplete: {report.stopped}")
    return {
        "summary": report_text.summary(report),
        "facts": [fact for fact in report_text.facts(report) if fact != report.title],
        "statuses": statuses,
        "fusions": [(f, sum(site.fusion == f for site in report.sites)) for f in sorted(known)],
        "decisions": report_text.decisions(report.fused),
        "notices": notices,
    }


def entry_object(
    entry: RewriteEntry,
    has_repro: bool,
    anchors: Mapping[int, str],
    sources: Mapping[str, object],
) -> dict[str, Any]:
    """One rewrite, as the template reads it."""
    site = entry.group.first
    before, after = titles(site)
    return {
        "name": entry.name,
        "status": site.status,
        "label": report_text.LABELS[site.status],
        "fusion": site.fusion,
        "count": entry.group.count.strip(),
        "modules": entry.group.modules,
        "source": site.source,
        "sentence": report_text.sentence(site),
        "before_title": f"{before}: {len(site.before)} op{report_text.plural(len(site.before))}",
        "after_title": after,
        "before": columns(site.before),
        "obstacle": site.reason.text if site.status != "fused" and site.reason else "",
        "after": entry.after,
        "fix": site.reason.fix if site.reason else "",
        "facts": details(entry),
        "certificate": site.certificate,
        "kernels": [kernel_object(use) for use in site.kernels],
        "files": ["diff.txt", "repro.py"] if has_repro else ["diff.txt"],
        "places": [
            {
                "anchor": anchors[id(one)],
                "module": one.module or "(root)",
                "graph": one.graph,
                "source": one.source,
            }
            for one in entry.group.sites
        ],
    }


def details(entry: RewriteEntry) -> list[tuple[str, str]]:
    """The facts without a place of their own, operands with what the model calls them."""
    call = entry.group.first.call
    operands = call.operands if call else {}
    return [
        (name, f"{value}  {operands[name]}" if name in operands else value)
        for name, value in entry.facts
        if name not in SHOWN_ELSEWHERE and value != "None"
    ]


def columns(lines: Iterable[GraphLine]) -> list[tuple[str, str]]:
    """Ops, padded, each with its place and the user's code, which is not repeated."""
    found, above = [], ("", "")
    lines = list(lines)
    widest = min(report_text.WIDEST, max((len(line.text) for line in lines), default=0))
    for line in lines:
        place = line.source, line.code
        code = '"' if place == above and line.code else line.code
        found.append((line.text.ljust(widest), f"{line.source}  {code}".strip()))
        above = place
    return found


def kernel_object(use: KernelUse) -> dict[str, Any]:
    """One launch."""
    return {
        "kernel": use.kernel,
        "source": use.source,
        "anchor": f"kernel:{use.source}",
        "grid": " x ".join(map(str, use.grid)),
        "arch": use.arch,
        "settings": [("hints", use.hints), ("constants", use.constants)],
    }


def kernel_sources(report: Report) -> dict[str, dict[str, str]]:
    """The kernels that sites launch and whose text is at hand, each once, by file:line."""
    uses = {use.source: use for site in report.sites for use in site.kernels}
    texts = {source: kernel_text.function_at(source) for source in uses}
    return {
        source: {"name": uses[source].kernel, "anchor": f"kernel:{source}", "text": text}
        for source, text in texts.items()
        if text
    }


def graph_object(report: Report, index: int) -> dict[str, Any]:
    """One graph, with links to its files."""
    facts = report.graphs[index]
    return {
        "index": index,
        "ops": facts.ops,
        "symbols": ", ".join(facts.symbols),
        "ended": facts.break_reason,
        "files": links(report, index),
        "note": note(report, index),
    }
