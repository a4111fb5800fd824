"""The sections of docs/benchmarks.md, one per bench, from their results alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from bench import plots
from bench.markdown import listed, number, spread, table

Row = Mapping[str, Any]
Result = Mapping[str, Any]
Section = tuple[str, Mapping[str, str]]
"""Text, and the plots that it shows: file name -> SVG."""
TIMES = (
    "A ratio is another version's time over tilegym's in the same round: over 1 tilegym is faster."
)


AXIS = "time over tilegym's"
MOST, FEW = 30, 3
"""Cases in one plot; cases that a line names."""


def picture(title: str, name: str) -> str:
    """A plot in the text."""
    return f"![{title}](benchmarks/{name}.svg)"


def notes(rows: Sequence[Row]) -> list[str]:
    """What is void, what did not run and what was not measured."""
    return [
        listed("Void", list(void(rows))),
        listed("Not run", list(not_run(rows))),
        listed("Not measured", list(not_measured(rows))),
    ]


def void(rows: Sequence[Row]) -> Iterator[str]:
    """What is wrong, and of its results only those that are."""
    for row in rows:
        for name, text in row["void"].items():
            parts = [part for part in text.split("; ") if " ok: " not in part]
            if name != "again":
                yield f"{name} of {row['case']}: {'; '.join(parts)}"


def not_run(rows: Sequence[Row]) -> Iterator[str]:
    """Each reason once, with the versions and cases that it stands for."""
    cases: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        for name, reason in row["not_run"].items():
            cases.setdefault((name, reason), []).append(row["case"])
    versions: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for (name, reason), of in cases.items():
        versions.setdefault((reason, tuple(of)), []).append(name)
    for (reason, titles), names in versions.items():
        yield f"{', '.join(names)} of {counted(titles, len(rows))}: {reason}"


def counted(cases: Sequence[str], of: int) -> str:
    """A few by name, many by number."""
    if len(cases) == of:
        return "every case" if of > 1 else cases[0]
    return ", ".join(cases) if len(cases) <= FEW else f"{len(cases)} of {of} cases"


def not_measured(rows: Sequence[Row]) -> Iterator[str]:
    """Each column and reason once, with how many cases lack it."""
    found: dict[tuple[str, str], int] = {}
    for row in rows:
        for item in row.get("not_measured", {}).items():
            found[item] = found.get(item, 0) + 1
    for (column, reason), count in found.items():
        cases = "every case" if count == len(rows) else f"{count} of {len(rows)} cases"
        yield f"{column} of {cases}: {reason}"


def versions_of(rows: Sequence[Row], column: str) -> list[str]:
    """Every version that some row has a figure of."""
    return list(dict.fromkeys(name for row in rows for name in row.get(column, ())))


def cell(row: Row, column: str, name: str) -> str:
    """A ratio with its spread, or why there is none."""
    if name in row.get("void", {}):
        return "void"
    found = row.get(column, {}).get(name)
    return spread(found) if found else "-" if name in row.get("not_run", {}) else ""


def raced(title: str, name: str, about: str) -> Callable[[Result], Section]:
    """A section about versions that took turns: ratios to tilegym."""

    def section(result: Result) -> Section:
        rows = result["rows"]
        others = versions_of(rows, "over_tilegym")
        header = ("case", "tilegym ms", "rate", "of ceiling", *others)
        lines = [
            (
                titled(row),
                milliseconds(row, "tilegym"),
                rate(row),
                share(row),
                *(cell(row, "over_tilegym", other) for other in others),
            )
            for row in rows
        ]
        drawn = drawings(title, name, rows)
        pictures = [picture(title, file) for file in drawn]
        text = [f"## {title}", about, TIMES, *pictures, table(header, lines)]
        return "\n\n".join(filter(None, [*text, *notes(rows)])), drawn

    return section


def drawings(title: str, name: str, rows: Sequence[Row]) -> dict[str, str]:
    """By file name: one plot of all cases, or where these are many one of each fusion."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        fusion = row.get("fusion", "").replace("_", "-") if len(rows) > MOST else ""
        groups.setdefault(f"{name}-{fusion}" if fusion else name, []).append(row)
    found = {}
    for file, some in groups.items():
        series = {n: [row["over_tilegym"].get(n) for row in some] for n in ("inductor", "again")}
        found[file] = plots.bars(title, [titled(row) for row in some], series, AXIS)
    return found


def titled(row: Row) -> str:
    """Its case, and the step where that is no part of it."""
    step = row.get("step", "")
    return row["case"] if row["case"].endswith(step) else f"{row['case']}, {step}"


def milliseconds(row: Row, name: str) -> str:
    """Median of a step."""
    found = row["time_us"].get(name)
    return "" if found is None else number(found["median"] / 1e3)


def rate(row: Row) -> str:
    """Of tilegym, with its unit."""
    for column, unit in (("tflop_per_s", "TFLOP/s"), ("gb_per_s", "GB/s")):
        if "tilegym" in row.get(column, {}):
            return f"{number(row[column]['tilegym'])} {unit}"
    speed = row.get("tokens_per_s", {}).get("tilegym")
    return "" if speed is None else f"{number(speed)} tokens/s"


def share(row: Row) -> str:
    """Of the measured ceiling."""
    found = row.get("share_of_ceiling", {}).get("tilegym")
    if found is not None:
        return f"{found:.0%}"
    return "not measured" if "share_of_ceiling" in row.get("not_measured", {}) else ""


def compile_time(result: Result) -> Section:
    """Seconds by layers."""
    lines = [
        (
            row["layers"],
            *(number(row[f"{n}_s"]) for n in ("inductor", "tilegym", "passes")),
            f"{row['share']:.1%}",
        )
        for row in result["rows"]
    ]
    header = ("layers", "inductor s", "tilegym s", "of these our passes", "share of inductor's")
    about = "Seconds in the backend of a fresh process with empty caches, tiny Llama."
    return "\n\n".join(("## Compile time", about, table(header, lines))), {}


def load(result: Result) -> Section:
    """Many compiles and long runs, a row for each backend."""
    names = ("inductor_s", "passes_s", "sites", "step_ms", "kib", "objects", "freed")
    header = (
        "load",
        "backend",
        "Inductor s",
        "our passes s",
        "sites",
        "step ms",
        "KiB",
        "objects",
        "freed",
    )
    lines = [
        (f"{row['count']} {row['load']}", row["backend"], *(row.get(name, "") for name in names))
        for row in result["rows"]
    ]
    about = (
        "Each in a fresh process with empty caches and every op put in as on a GPU; steps with"
        ' `verify="always"`. KiB and objects: what an item of the second half of the load added.'
        " Freed: the part of the objects of all callables that is gone once they are deleted."
    )
    return "\n\n".join(("## Load", about, table(header, lines))), {}


def cpu_parity(result: Result) -> Section:
    """Steps of a small Llama."""
    header = ("step", "inductor ms", "tilegym ms", "tilegym over inductor", "inductor over itself")
    lines = [
        (
            f"{row['mode']}, {row['dtype']}",
            *(number(row[n], 4) for n in ("inductor_ms", "tilegym_ms")),
            spread(row["ratio"]),
            spread(row["noise"]),
        )
        for row in result["rows"]
    ]
    about = "A compiled step of 256 tokens on a CPU, small Llama. Under 1 tilegym is faster."
    return "\n\n".join(("## Step time on a CPU", about, table(header, lines))), {}


def cpu_prefill(result: Result) -> Section:
    """Prefill by length."""
    names = ("inductor_ms", "tilegym_ms")
    peaks = ("inductor_peak_mib", "tilegym_peak_mib")
    header = ("tokens", "inductor ms", "tilegym ms", "times as fast", "noise", "MiB", "ours")
    lines = [
        (
            row["tokens"],
            *(number(row[n], 4) for n in names),
            spread(row["speedup"]),
            spread(row["noise"]),
            *(number(row[n]) for n in peaks),
        )
        for row in result["rows"]
    ]
    about = "A Llama of four layers, float32. Attention skips what a proven causal mask hides."
    return "\n\n".join(("## Prefill on a CPU", about, table(header, lines))), {}


def launch_overhead(result: Result) -> Section:
    """Host time of a launch."""
    header = ("case", "ct.launch us", "in compiled code us")
    lines = [
        (row["case"], spread(row["launch_us"]), spread(row["compiled_us"]))
        for row in result["rows"]
    ]
    about = f"Host time of one launch, with a {result['driver']} driver."
    return "\n\n".join(("## Launch overhead", about, table(header, lines))), {}


def our_calls(row: Row) -> str:
    """Our share of a compile."""
    calls = row["calls"]
    return f"{calls['passes'] / calls['inductor']:.1%}"


def static_counters(result: Result) -> Section:
    """Counters of tiny models."""
    rows = result["rows"]
    left_out = ("case", "mode", "device", "run", "calls")
    names = [name for name in rows[0] if name not in left_out]
    lines = [
        (f"{row['case']} {row['mode']}", *(row.get(n, "") for n in names), our_calls(row))
        for row in rows
    ]
    about = (
        "Counted in the generated code of tiny models, with every op put in as on a GPU; `plain_`:"
        " Inductor alone. `our calls`: Python functions that our passes call in a compile, over"
        " those that Inductor calls alone. The tests hold every change to these numbers."
    )
    table_ = table(("model", *(name.replace("_", " ") for name in names), "our calls"), lines)
    return "\n\n".join(("## Static counters", about, table_)), {}
