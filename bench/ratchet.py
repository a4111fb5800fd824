"""Did anything get slower? Two result files of one bench, figure by figure, beyond their spread.

    python -m bench.ratchet bench/results/training.json new/training.json

Ratios of one run are compared, since a second run has another machine or another moment; times
themselves only where nothing else was measured, and only between equal machines. A figure got worse
where the medians differ by more than both spreads: each median lies outside the other's deciles.
The exit status is 1 then, and 2 for files that cannot be compared.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import result_file

NAMES = ("case", "step", "device", "mode", "dtype", "tokens", "layers")
"""What tells the rows of a bench apart."""
CONTROLS = ("again", "noise")
"""Figures that say how much a run scatters; they are no results."""


@dataclasses.dataclass(frozen=True)
class Figure:
    """A key of a row: a spread, or several by name. higher: more is better.

    absolute: a time, not a ratio of one run.
    """

    key: str
    higher: bool
    absolute: bool = False


FIGURES = {
    "attention": (Figure("over_tilegym", higher=True),),
    "training": (Figure("over_tilegym", higher=True),),
    "fusions": (Figure("over_tilegym", higher=True),),
    "models": (Figure("speedup", higher=True), Figure("speedup_same_mode", higher=True)),
    "cpu_prefill": (Figure("speedup", higher=True),),
    "cpu_parity": (Figure("ratio", higher=False),),
    "compile_time": (Figure("share", higher=False),),
    "launch_overhead": (
        Figure("launch_us", higher=False, absolute=True),
        Figure("compiled_us", higher=False, absolute=True),
        Figure("graph_us", higher=False, absolute=True),
    ),
}


class CannotCompareError(ValueError):
    """Two files that have nothing to say about each other."""


@dataclasses.dataclass(frozen=True)
class Change:
    """One figure of one row in both runs; spreads as `turns.spread` makes them."""

    row: str
    figure: str
    before: Mapping[str, float]
    after: Mapping[str, float]
    higher: bool

    @property
    def verdict(self) -> str:
        """`worse`, `better`, or "" within the spread."""
        old, new = self.before["median"], self.after["median"]
        apart = outside(new, self.before) and outside(old, self.after)
        return "" if not apart else "better" if (new > old) == self.higher else "worse"


def outside(value: float, spread: Mapping[str, float]) -> bool:
    """Whether a value lies below the first or above the last decile."""
    return not spread["p10"] <= value <= spread["p90"]


def compare(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Change]:
    """Every figure that both results have. Raises CannotCompareError."""
    name = before.get("bench")
    if name != after.get("bench"):
        raise CannotCompareError(f"one is of bench.{name}, the other of bench.{after.get('bench')}")
    if name not in FIGURES:
        raise CannotCompareError(
            f"bench.{name} has no figures to compare; known are {', '.join(FIGURES)}"
        )
    alike = hardware(before) == hardware(after)
    figures = [figure for figure in FIGURES[name] if alike or not figure.absolute]
    if not figures:
        raise CannotCompareError(
            f"bench.{name} measures times, and the machines differ: {hardware(before)} and"
            f" {hardware(after)}"
        )
    old, new = ({title(row): row for row in result["rows"]} for result in (before, after))
    return [
        Change(row, found, spread, theirs[found], figure.higher)
        for row in old
        if row in new
        for figure in figures
        for theirs in [dict(spreads(new[row], figure))]
        for found, spread in spreads(old[row], figure)
        if found in theirs
    ]


def spreads(row: Mapping[str, Any], figure: Figure) -> Iterator[tuple[str, Mapping[str, float]]]:
    """The figure's spreads in a row, by name."""
    value = row.get(figure.key)
    if isinstance(value, (int, float)):
        yield figure.key, of_samples(row, float(value))
    elif value and "median" in value:
        yield figure.key, value
    elif value:
        for name, spread in value.items():
            if name not in CONTROLS:
                yield f"{figure.key} {name}", spread


def of_samples(row: Mapping[str, Any], share: float) -> Mapping[str, float]:
    """The spread of a share whose parts are in the row's samples: passes over Inductor's time."""
    samples = row["samples"]
    whole = sorted(samples["inductor"])[len(samples["inductor"]) // 2]
    parts = [value / whole for value in samples["passes"]]
    return {"median": share, "p10": min(parts), "p90": max(parts)}


def title(row: Mapping[str, Any]) -> str:
    """What tells a row apart, as words."""
    return ", ".join(f"{row[n]} {n}" if n in NAMES[5:] else str(row[n]) for n in NAMES if n in row)


def hardware(result: Mapping[str, Any]) -> str:
    """What a time depends on most."""
    machine = result["machine"]
    return f"{machine['processor']} x{machine['cores']} {machine.get('gpu', 'no GPU')}"


def lost(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Rows that the second run does not have."""
    there = {title(row) for row in after["rows"]}
    return [row for row in map(title, before["rows"]) if row not in there]


def report(changes: Sequence[Change], missing: Sequence[str]) -> str:
    """The table: what changed beyond the spread, then what was not measured again."""
    told = [change for change in changes if change.verdict]
    rows = [(c.verdict, c.row, c.figure, said(c.before), said(c.after)) for c in told]
    lines = [result_file.table(("", "case", "figure", "before", "after"), rows)] if rows else []
    lines += [f"not measured again: {row}" for row in missing]
    worse = sum(change.verdict == "worse" for change in told)
    return "\n".join([*lines, f"{len(changes)} figures: {worse} worse, {len(told) - worse} better"])


def said(spread: Mapping[str, float]) -> str:
    """A spread as a person reads it."""
    return f"{spread['median']:.4g} ({spread['p10']:.4g}..{spread['p90']:.4g})"


def load(path: Path) -> Mapping[str, Any]:
    """A result file. Raises CannotCompareError."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CannotCompareError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict) or not {"bench", "rows", "machine"} <= content.keys():
        raise CannotCompareError(f"{path} is no result of a bench: see bench/results/")
    return content


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what changed; the exit status."""
    parser = argparse.ArgumentParser(prog="bench.ratchet", description="What got slower?")
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    given = parser.parse_args(arguments)
    try:
        before, after = load(given.before), load(given.after)
        changes = compare(before, after)
    except CannotCompareError as error:
        print(f"bench.ratchet: {error}", file=sys.stderr)
        return 2
    print(report(changes, lost(before, after)))
    return int(any(change.verdict == "worse" for change in changes))


if __name__ == "__main__":
    sys.exit(main())
