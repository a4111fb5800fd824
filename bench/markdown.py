"""Pieces of a page in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """The first column to the left, the others to the right."""
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(map(str, cells))} |" for cells in (header, rule, *rows))


def spread(found: Mapping[str, float] | None) -> str:
    """Median, and first to last decile."""
    if not found:
        return ""
    if "p10" not in found:
        return number(found["median"])
    return f"{number(found['median'])} ({number(found['p10'])} to {number(found['p90'])})"


def number(value: float | None, digits: int = 3) -> str:
    """Three digits, without an exponent."""
    if value is None:
        return ""
    if value and abs(value) >= 10**digits:
        return str(round(value))
    return f"{value:.{digits}g}"


def listed(title: str, lines: Sequence[str]) -> str:
    """A paragraph that folds; nothing without lines."""
    if not lines:
        return ""
    items = "\n".join(f"- {line}" for line in lines)
    return f"<details><summary>{title}</summary>\n\n{items}\n\n</details>"
