"""A walk-through on a terminal: the text of tour_text, with headings and colours."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.padding import Padding
from rich.rule import Rule
from rich.syntax import Syntax
from rich.text import Text

from tile_backend.tour_text import WIDTH, artefact_lines, closing, headline

if TYPE_CHECKING:
    from tile_backend.tour import Walkthrough
    from tile_backend.tour_stage import Artefact

INDENT = (0, 0, 0, 4)


def show(tour: Walkthrough, full: bool, hint: str, console: Console | None = None) -> None:
    """Print it. full, hint: as `Walkthrough.to_text` has them."""
    console = console or Console(highlight=False)
    console.print(Rule(Text(headline(tour), style="bold"), align="left"))
    for number, stage in enumerate(tour.stages, 1):
        console.print()
        console.print(Rule(Text(f"{number}. {stage.title}", style="bold cyan"), align="left"))
        console.print(Text(stage.says), width=min(console.width, WIDTH))
        if stage.missing:
            console.print(Text(stage.missing, style="yellow"), width=min(console.width, WIDTH))
        for artefact in stage.artefacts:
            console.print()
            console.print(Text(f"  {artefact.title}", style="italic"))
            console.print(
                Padding(coloured(artefact, full, hint), INDENT, expand=False), soft_wrap=False
            )
    rest = list(closing(tour))
    if rest:
        console.print()
        console.print(Text("\n".join(rest)))


def coloured(artefact: Artefact, full: bool, hint: str) -> Syntax | Text:
    """Its lines, as code where it is code."""
    lines = artefact_lines(artefact, full, hint)
    if artefact.language != "text":
        return Syntax(
            "\n".join(lines),
            artefact.language,
            theme="ansi_dark",
            background_color="default",
            word_wrap=True,
        )
    text = Text()
    for line in lines:
        text.append(f"{line}\n", style="bold" if line.startswith(">") else "")
    text.rstrip()
    return text
