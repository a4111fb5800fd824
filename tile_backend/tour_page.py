"""A walk-through as one static page: no network, no script, light and dark as the reader's system.

A table of contents leads to the stages; what an excerpt leaves out is folded below it, and opens by
mouse or keyboard. What it looks like is in tour_page.html, tour_page.css and page_style.css.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from tile_backend.page_template import rendered
from tile_backend.report_text import plural
from tile_backend.tour_text import closing, headline
from tile_backend.version import VERSION

if TYPE_CHECKING:
    from tile_backend.tour import Walkthrough
    from tile_backend.tour_stage import Artefact, Stage

CLOSING = "The rest of this graph"
SIGNS = {"diff": {"+": "ins", "-": "del"}, "text": {">": "mark"}}
"""By language: how a line begins that is marked, and with which element."""


def page(tour: Walkthrough) -> str:
    """The whole page."""
    return rendered(
        "tour_page.html",
        ("page_style.css", "tour_page.css"),
        title=headline(tour),
        version=VERSION,
        stages=[stage_object(stage) for stage in tour.stages],
        closing=[("", line) for line in closing(tour)],
        closing_title=CLOSING,
    )


def stage_object(stage: Stage) -> dict[str, object]:
    """One stage, as the template reads it."""
    return {
        "name": stage.name,
        "title": stage.title,
        "says": stage.says,
        "missing": stage.missing,
        "artefacts": [artefact_object(artefact) for artefact in stage.artefacts],
    }


def artefact_object(artefact: Artefact) -> dict[str, object]:
    """The excerpt, and all of it where that is more."""
    number = len(artefact.lines)
    return {
        "title": artefact.title,
        "excerpt": marked(artefact.excerpt, artefact.language),
        "more": f"all {number} line{plural(number)}" if artefact.left_out else "",
        "all": marked(artefact.lines, artefact.language),
    }


def marked(lines: Iterable[str], language: str) -> list[tuple[str, str]]:
    """Lines with the element that marks each, or "": of the site, taken out, put in."""
    signs = SIGNS.get(language, {})
    return [(signs.get(line[:1], ""), line) for line in lines]
