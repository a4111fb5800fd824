"""`index.html` of a dump: one static page, no server, no network.

A searchable list of the distinct rewrites, each of which opens to its ops before and after, what
it binds, its sites, and links to its diff and its repro. Works without scripts too; then only the
search field is missing. Light and dark follow the reader's system.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from tile_backend.report_text import sentence

if TYPE_CHECKING:
    from tile_backend.report import Report
    from tile_backend.rewrite_entry import RewriteEntry

STYLE = """
:root { color-scheme: light dark; --line: #8884; --fused: #2a8f4a; --declined: #b7791f;
        --near-miss: #c2410c; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 0 auto; max-width: 84rem; padding: 1rem; }
pre, code, summary { font-family: ui-monospace, monospace; font-size: 13px; }
pre { overflow-x: auto; margin: 0; padding: .6rem; border: 1px solid var(--line); }
details { border-top: 1px solid var(--line); padding: .35rem 0; }
summary { cursor: pointer; overflow-wrap: anywhere; }
summary .why { opacity: .75; }
.fused { color: var(--fused); } .declined { color: var(--declined); }
.near-miss { color: var(--near-miss); }
.columns { display: grid; grid-template-columns: 1fr 1fr; gap: .8rem; margin: .6rem 0; }
.columns > div { min-width: 0; }
@media (max-width: 60rem) { .columns { grid-template-columns: 1fr; } }
h1 { font-size: 1.2rem; } h2 { font-size: .85rem; margin: .3rem 0; }
table { border-collapse: collapse; } td { padding: 0 1rem 0 0; vertical-align: top; }
input { font: inherit; width: 100%; padding: .4rem; margin: .8rem 0; box-sizing: border-box; }
"""
SCRIPT = """
const field = document.getElementById("search");
field.hidden = false;
field.addEventListener("input", () => {
  const words = field.value.toLowerCase().split(/\\s+/);
  for (const entry of document.querySelectorAll("details")) {
    const text = entry.dataset.words;
    entry.hidden = !words.every((word) => text.includes(word));
  }
});
if (location.hash) document.getElementById(location.hash.slice(1))?.setAttribute("open", "");
"""


def page(report: Report, entries: Sequence[RewriteEntry], repros: frozenset[str]) -> str:
    """The page; `repros` are the names of the entries that have a repro.py."""
    items = "\n".join(entry_html(entry, entry.name in repros) for entry in entries)
    title = html.escape(f"tilegym: {report.title}")
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{STYLE}</style>
</head>
<body>
<h1>{title}</h1>
{block(report.to_text().splitlines())}
<p><a href="report.txt">report.txt</a> <a href="report.json">report.json</a></p>
<input id="search" type="search" hidden autofocus
 placeholder="Search: fusion, module, source line, reason" aria-label="Search the rewrites">
{items}
<script>{SCRIPT}</script>
</body>
</html>
"""


def entry_html(entry: RewriteEntry, has_repro: bool) -> str:
    """One rewrite, closed."""
    site = entry.group.first
    modules = " ".join(s.module for s in entry.group.sites)
    words = " ".join((entry.title, modules, site.status, site.source, sentence(site))).lower()
    facts = "".join(f"<tr><td>{html.escape(n)}<td>{html.escape(v)}" for n, v in entry.facts)
    files = ["diff.txt", "repro.py"] if has_repro else ["diff.txt"]
    folder = html.escape(entry.name)
    links = " ".join(f'<a href="{folder}/{file}">{file}</a>' for file in files)
    before, after = ("before", "after") if site.status == "fused" else ("ops", "why not")
    return f"""<details id="{folder}" data-words="{html.escape(words)}">
<summary><b class="{site.status}">{site.status}</b> {html.escape(entry.title)}
 <span class="why">{html.escape(" ".join((site.source, sentence(site))))}</span></summary>
<div class="columns">
<div><h2>{before}</h2>{block(entry.before)}</div>
<div><h2>{after}</h2>{block(entry.after)}</div>
</div>
<table>{facts}</table>
<h2>sites</h2>{block(entry.places)}
<p>{links}</p>
</details>"""


def block(lines: Iterable[str]) -> str:
    """Lines of code, as they are."""
    return f"<pre>{html.escape(chr(10).join(lines))}</pre>"
