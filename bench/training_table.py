"""The text of `bench.training`: a table of ratios, then what is void and what did not run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench import result_file
from bench.attention_table import columns, missing, ratio, wrong


def report(rows: Sequence[Mapping[str, Any]]) -> str:
    """Over 1.00 tilegym is faster. Memory is tilegym's, and without logits, beside Inductor's."""
    others = list(dict.fromkeys(name for row in rows for name in columns(row)))
    header = ("case", "tilegym ms", "tokens/s", *others, "MiB", "no logits", "inductor")
    table = result_file.table(header, [line(row, others) for row in rows])
    return "\n".join([table, *wrong(rows), *missing(rows)])


def line(row: Mapping[str, Any], others: Sequence[str]) -> tuple[str, ...]:
    """Of the table."""
    time = row["time_us"].get("tilegym")
    speed = row.get("tokens_per_s", {}).get("tilegym")
    peaks = row["peak_mib"]
    return (
        row["case"],
        "" if time is None else f"{time['median'] / 1e3:.4g}",
        "" if speed is None else f"{speed:.0f}",
        *(ratio(row, name) for name in others),
        *(f"{peaks[n]:.1f}" if n in peaks else "" for n in ("tilegym", "no logits", "inductor")),
    )
