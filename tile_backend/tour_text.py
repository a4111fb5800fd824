"""A walk-through as plain text: for a file, a pipe, a notebook."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING

from tile_backend.report_text import aligned, plural, sentence

if TYPE_CHECKING:
    from tile_backend.lowering.site import Site
    from tile_backend.tour import Walkthrough
    from tile_backend.tour_stage import Artefact, Stage

WIDTH = 96
INDENT = "    "
MOST_OTHERS = 24
LONGEST = 200
"""Characters of a line in an excerpt."""


def render(tour: Walkthrough, full: bool, hint: str) -> str:
    """full: every line. hint: how to ask for that."""
    lines = [*heading(headline(tour), "="), ""]
    for number, stage in enumerate(tour.stages, 1):
        lines += stage_lines(stage, number, full, hint)
    lines += closing(tour)
    return "\n".join(line.rstrip() for line in lines).rstrip()


def headline(tour: Walkthrough) -> str:
    """What is shown."""
    site = tour.site
    if site is None:
        return f"{tour.title}: nothing is found"
    status = site.status.replace("-", " ")
    at = f" at {site.module}" if site.module else ""
    return f"{tour.title}: {status} {site.fusion}{at}, {site.source}"


def heading(text: str, sign: str) -> list[str]:
    """A line, underlined."""
    return [text, sign * len(text)]


def stage_lines(stage: Stage, number: int, full: bool, hint: str) -> Iterator[str]:
    """Heading, prose, artefacts."""
    yield from heading(f"{number}. {stage.title}", "-")
    yield from textwrap.wrap(stage.says, WIDTH, break_on_hyphens=False)
    if stage.missing:
        yield ""
        yield from textwrap.wrap(stage.missing, WIDTH, break_on_hyphens=False)
    for artefact in stage.artefacts:
        yield ""
        yield f"  {artefact.title}:"
        yield from (INDENT + line for line in artefact_lines(artefact, full, hint))
    yield ""


def artefact_lines(artefact: Artefact, full: bool, hint: str) -> list[str]:
    """All of its lines, or those that matter and how many are left out."""
    if full or not artefact.left_out:
        return artefact.lines
    return [*map(cut, artefact.excerpt), more(artefact, hint)]


def cut(line: str) -> str:
    """A line that would fill several."""
    return line if len(line) <= LONGEST else f"{line[:LONGEST]} ..."


def more(artefact: Artefact, hint: str) -> str:
    """How much an excerpt leaves out, and how to get it."""
    left = artefact.left_out
    return f"... {left} more line{plural(left)} ({hint})"


def closing(tour: Walkthrough) -> Iterator[str]:
    """The sites that were not shown, and why the graph ended."""
    if tour.stopped:
        yield f"The graph is not all of the function: {tour.stopped}"
    if tour.others:
        yield from heading("Other sites of this graph", "-")
        yield from aligned([other(site) for site in tour.others[:MOST_OTHERS]])
        if len(tour.others) > MOST_OTHERS:
            rest = len(tour.others) - MOST_OTHERS
            yield f"... and {rest} more: tile_backend.explain has them all"


def other(site: Site) -> tuple[str, str, str, str]:
    """How to name it, and what became of it."""
    name = f"{site.fusion}@{site.module}" if site.module else site.fusion
    return name, site.status.replace("-", " "), site.source, sentence(site)
