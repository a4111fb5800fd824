"""The text of `bench.models`: a table of speed-ups, then what is void and what did not run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bench import result_file
from bench.attention_table import Row, missing, wrong


def report(rows: Sequence[Row]) -> str:
    """Over 1.00 a version is faster than Inductor."""
    names = list(dict.fromkeys(n for row in rows for n in (*row.get("time_us", ()), *row["void"])))
    others = [name for name in names if name not in ("inductor", "tilegym")]
    header = ("case", "layers", "tilegym ms", "tokens/s", "of ceiling", "tilegym", *others)
    counts = ("kernels", "inductor's", "GB moved", "inductor's", "cold s", "warm s")
    table = result_file.table((*header, *counts), [line(row, others) for row in rows])
    return "\n".join([table, *wrong(rows), *missing(rows)])


def line(row: Row, others: Sequence[str]) -> tuple[str, ...]:
    """Of the table."""
    time = row.get("time_us", {}).get("tilegym")
    speed = row.get("tokens_per_s", {}).get("tilegym")
    share = row.get("share_of_ceiling", {}).get("tilegym")
    seconds = row.get("compile_s", {}).get("tilegym", {})
    return (
        row["case"],
        f"{row['layers']}/{row['of_layers']}",
        "" if time is None else f"{time['median'] / 1e3:.4g}",
        "" if speed is None else f"{speed:.0f}",
        "" if share is None else f"{share:.0%}",
        *(ratio(row, name) for name in ("tilegym", *others)),
        *(kernels(row, name) for name in ("tilegym", "inductor")),
        *(moved(row, name) for name in ("tilegym", "inductor")),
        *(f"{seconds[n]:.1f}" if n in seconds else "" for n in ("cold", "warm")),
    )


def ratio(row: Row, name: str) -> str:
    """To Inductor."""
    if name in row["void"]:
        return "void"
    found = row.get("speedup", {}).get(name)
    return "" if found is None else f"{found['median']:.2f}"


def kernels(row: Row, name: str) -> str:
    """Launched by a step; without a GPU called by the code at full size."""
    if name in row.get("kernels", {}):
        return str(row["kernels"][name])
    return str(counted(row, name).get("kernels", ""))


def moved(row: Row, name: str) -> str:
    """Gigabytes that the code moves."""
    found = counted(row, name).get("moved")
    return "" if found is None else f"{found / 1e9:.3g}"


def counted(row: Row, name: str) -> dict[str, Any]:
    """Of the code at full size."""
    found: dict[str, Any] = row.get("counted", {}).get(name, {})
    return found
