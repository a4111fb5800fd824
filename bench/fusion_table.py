"""The text of `bench.fusions`: a table of ratios, then what is void and what did not run."""

from __future__ import annotations

from collections.abc import Sequence

from bench import result_file
from bench.attention_table import Row, columns, missing, rate, ratio, wrong


def report(rows: Sequence[Row]) -> str:
    """Over 1.00 tilegym is faster."""
    others = list(dict.fromkeys(n for row in rows for n in columns(row)))
    header = ("case", "shapes of", "tilegym us", "rate", "of ceiling", *others, "MiB", "kernels")
    table = result_file.table(header, [line(row, others) for row in rows])
    return "\n".join([table, *wrong(rows), *missing(rows)])


def line(row: Row, others: Sequence[str]) -> tuple[str, ...]:
    """Of the table."""
    time = row["time_us"].get("tilegym")
    share = row.get("share_of_ceiling", {}).get("tilegym")
    peak, kernels = row["peak_mib"].get("tilegym"), row["kernels"].get("tilegym")
    return (
        row["case"],
        row["origin"],
        "" if time is None else f"{time['median']:.1f}",
        rate(row),
        "" if share is None else f"{share:.0%}",
        *(ratio(row, name) for name in others),
        "" if peak is None else f"{peak:.1f}",
        "" if kernels is None else str(kernels),
    )
