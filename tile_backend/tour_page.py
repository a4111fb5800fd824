"""A walk-through as one static page: no network, no script, light and dark as the reader's system.

A table of contents leads to the stages; what an excerpt leaves out is folded below it, and opens by
mouse or keyboard.
"""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

from tile_backend.report_text import plural
from tile_backend.tour_text import closing, headline

if TYPE_CHECKING:
    from tile_backend.tour import Walkthrough
    from tile_backend.tour_stage import Artefact, Stage

STYLE = """
:root { color-scheme: light dark; --line: #8884; --mark: #2a8f4a22; --gone: #c2410c22; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 70rem; padding: 1rem; }
main { max-width: 100%; } p { max-width: 46rem; }
nav ol { columns: 2; padding-left: 2rem; } @media (max-width: 40rem) { nav ol { columns: 1; } }
pre, summary, figcaption { font-family: ui-monospace, monospace; font-size: 13px; }
pre { overflow-x: auto; margin: .3rem 0; padding: .6rem; border: 1px solid var(--line); }
figure { margin: 1rem 0; } figcaption, summary { opacity: .8; } summary { cursor: pointer; }
mark { background: var(--mark); color: inherit; } del { background: var(--gone);
 text-decoration: none; } ins { background: var(--mark); text-decoration: none; }
.missing { border-left: 3px solid #b7791f; padding-left: .6rem; }
h1 { font-size: 1.3rem; } h2 { font-size: 1.1rem; margin-top: 2.2rem; }
a:focus-visible, summary:focus-visible, pre:focus-visible { outline: 2px solid; }
"""


def page(tour: Walkthrough) -> str:
    """The whole page."""
    title = html.escape(headline(tour))
    stages = [section(stage, number) for number, stage in enumerate(tour.stages, 1)]
    contents = "\n".join(
        f'<li><a href="#{stage.name}">{html.escape(stage.title)}</a></li>' for stage in tour.stages
    )
    rest = list(closing(tour))
    if rest:
        stages.append(f'<section id="others">{block(rest)}</section>')
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{STYLE}</style>
</head>
<body>
<header><h1>{title}</h1>
<nav aria-label="Stages"><ol>
{contents}
</ol></nav></header>
<main>
{chr(10).join(stages)}
</main>
</body>
</html>
"""


def section(stage: Stage, number: int) -> str:
    """One stage."""
    parts = [
        f'<section id="{stage.name}" aria-labelledby="{stage.name}-title">',
        f'<h2 id="{stage.name}-title">{number}. {html.escape(stage.title)}</h2>',
        f"<p>{html.escape(stage.says)}</p>",
    ]
    if stage.missing:
        parts.append(f'<p class="missing">{html.escape(stage.missing)}</p>')
    parts += [figure(artefact) for artefact in stage.artefacts]
    return "\n".join([*parts, "</section>"])


def figure(artefact: Artefact) -> str:
    """The excerpt, and all of it folded where that is more."""
    parts = [f"<figure><figcaption>{html.escape(artefact.title)}</figcaption>"]
    parts.append(block(artefact.excerpt, artefact.language))
    if artefact.left_out:
        number = len(artefact.lines)
        parts.append(
            f"<details><summary>all {number} line{plural(number)}</summary>"
            f"{block(artefact.lines, artefact.language)}</details>"
        )
    return "\n".join([*parts, "</figure>"])


def block(lines: list[str], language: str = "text") -> str:
    """Lines as they are; one can scroll it with the keyboard."""
    return f'<pre tabindex="0">{chr(10).join(marked(line, language) for line in lines)}</pre>'


def marked(line: str, language: str) -> str:
    """Lines of the site, and of a difference, in their colours."""
    text = html.escape(line)
    tag = {"+": "ins", "-": "del"}.get(line[:1]) if language == "diff" else None
    if tag is None and language == "text" and line.startswith(">"):
        tag = "mark"
    return text if tag is None else f"<{tag}>{text}</{tag}>"
