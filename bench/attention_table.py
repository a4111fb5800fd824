"""The text of `bench.attention`: a table of ratios, then what is void and what did not run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench import result_file

Row = Mapping[str, Any]


def report(rows: Sequence[Row]) -> str:
    """Over 1.00 tilegym is faster."""
    others = list(dict.fromkeys(n for row in rows for n in columns(row)))
    header = ("case", "ran", "mask", "tilegym ms", "rate", "of ceiling", *others, "MiB", "inductor")
    table = result_file.table(header, [line(row, others) for row in rows])
    return "\n".join([table, *wrong(rows), *missing(rows)])


def columns(row: Row) -> list[str]:
    """The versions besides tilegym."""
    names = (*row["time_us"], *row["not_run"])
    return [name for name in names if name != "tilegym"]


def line(row: Row, others: Sequence[str]) -> tuple[str, ...]:
    """Of the table."""
    time = row["time_us"].get("tilegym")
    share = row.get("share_of_ceiling", {}).get("tilegym")
    peaks = row["peak_mib"]
    return (
        row["case"],
        row["ran"].get("decision", ""),
        row["ran"].get("mask", ""),
        "" if time is None else f"{time['median'] / 1e3:.4g}",
        rate(row),
        "" if share is None else f"{share:.0%}",
        *(ratio(row, name) for name in others),
        *(f"{peaks[n]:.1f}" if n in peaks else "" for n in ("tilegym", "inductor")),
    )


def rate(row: Row) -> str:
    """Of tilegym, with its unit."""
    for name, unit in (("tflop_per_s", "TFLOP/s"), ("gb_per_s", "GB/s")):
        if "tilegym" in row.get(name, {}):
            return f"{row[name]['tilegym']:.3g} {unit}"
    return ""


def ratio(row: Row, name: str) -> str:
    """A version's time over tilegym's, or why there is none."""
    if name in row["void"]:
        return "void"
    if name in row["not_run"]:
        return "-"
    found = row["over_tilegym"].get(name)
    return "" if found is None else f"{found['median']:.2f}"


def wrong(rows: Sequence[Row]) -> list[str]:
    """A line for each void version."""
    return [
        f"void: {name} of {row['case']}: {text}"
        for row in rows
        for name, text in row["void"].items()
        if name != "again"
    ]


def missing(rows: Sequence[Row]) -> list[str]:
    """A line for each reason, with the cases that it stands for."""
    cases: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        for name, text in row["not_run"].items():
            cases.setdefault((name, text), []).append(row["case"])
    return [f"not run: {name} of {', '.join(of)}: {text}" for (name, text), of in cases.items()]
