"""Bars with their spread, as SVG: the same file for the same numbers."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

Spread = Mapping[str, float]
STYLE: Any = {"svg.hashsalt": "tile-backend", "svg.fonttype": "none", "font.size": 9}
HEIGHT, WIDTH = 0.22, 8.0
"""Inches: of a bar, of the picture."""


def end_of(spreads: Sequence[Spread]) -> float:
    """Where the axis ends: one wild spread does not make all bars short."""
    if not spreads:
        return 1.0
    most = max(s["median"] for s in spreads)
    return 1.05 * min(max(s.get("p90", s["median"]) for s in spreads), 2 * most)


def bars(
    title: str,
    labels: Sequence[str],
    series: Mapping[str, Sequence[Spread | None]],
    axis: str,
    one: bool = True,
) -> str:
    """A group of bars for each label, from the top. series: by name a spread for each label, or
    none. one: a line at 1, where a ratio says that nothing is faster.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        height = 1.2 + HEIGHT * len(labels) * (len(series) + 0.8)
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        axes = figure.subplots()
        for number, (name, spreads) in enumerate(series.items()):
            there = [(i, s) for i, s in enumerate(spreads) if s is not None]
            places = [i + (number - (len(series) - 1) / 2) * 0.8 / len(series) for i, _ in there]
            medians = [s["median"] for _, s in there]
            errors = [
                [max(s["median"] - s.get("p10", s["median"]), 0) for _, s in there],
                [max(s.get("p90", s["median"]) - s["median"], 0) for _, s in there],
            ]
            axes.barh(places, medians, 0.7 / len(series), xerr=errors, label=name, capsize=1.5)
        ends = [s for spreads in series.values() for s in spreads if s is not None]
        axes.set_xlim(0, end_of(ends))
        axes.set_yticks(range(len(labels)), labels)
        axes.invert_yaxis()
        axes.set_xlabel(axis)
        axes.set_title(title)
        if one:
            axes.axvline(1.0, color="black", linewidth=0.8)
        if len(series) > 1:
            axes.legend(loc="best", fontsize=8)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines()) + "\n"
