"""The section of docs/benchmarks.md about whole models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench import plots
from bench.markdown import number, spread, table
from bench.model_configs import MODELS
from bench.page_sections import (
    Result,
    Row,
    Section,
    cell,
    milliseconds,
    notes,
    picture,
    versions_of,
)

ABOUT = """\
Random weights at the published sizes (`bench/model_configs.py`), bfloat16, the logits of the last
token; decoding with 4096 tokens in a static cache. A ratio is Inductor's time over the version's
in the same round: over 1 it is faster than Inductor. Libraries that patch a model run in a
process of their own; their ratio is to Inductor in that process. `again` is tilegym a second
time: how far the two are apart is noise."""
COUNTED = """\
Counted in the generated code at full size but for the layers, with every op of ours put in as on
a GPU, and by Inductor alone. Bytes are the roofline model's: every kernel reads and writes each
of its buffers once. The code is that for a CPU, whose fusions differ a little from those for a
GPU."""
REDUCED = """\
The same models an eighth as wide with two layers, float32, on the processor; a prefill has 512
tokens, a cache 256. Ratios are to Inductor; compile times are of fresh processes, cold and with
the caches of the first."""


def section(result: Result) -> Section:
    """What GPUs measured, then what processors can show."""
    rows = sorted(result["rows"], key=place)
    on_gpus = [row for row in rows if row["device"] != "cpu"]
    on_cpus = [row for row in rows if row["device"] == "cpu"]
    parts = ["## Whole models", ABOUT]
    figures: dict[str, str] = {}
    for device in dict.fromkeys(row["device"] for row in on_gpus):
        text, drawn = measured(device, [row for row in on_gpus if row["device"] == device])
        parts.append(text)
        figures |= drawn
    if not on_gpus:
        parts.append("On a GPU: **not measured**.")
    if counted := [row for row in on_cpus if "counted" in row]:
        text, drawn = code(counted)
        parts.append(text)
        figures |= drawn
    if timed := [row for row in on_cpus if "time_us" in row]:
        parts += ["### Reduced models on a processor", REDUCED, times(timed)]
    return "\n\n".join(filter(None, [*parts, *notes(rows)])), figures


def place(row: Row) -> tuple[Any, ...]:
    """Of a row among the others, whenever it was measured."""
    models = [model.name for model in MODELS]
    at = models.index(row["model"]) if row["model"] in models else len(models)
    return at, row["model"], row["phase"] != "prefill", row["batch"], row["length"]


def measured(device: str, rows: Sequence[Row]) -> tuple[str, Mapping[str, str]]:
    """Of one GPU."""
    names = versions_of(rows, "speedup")
    name = "models-" + "".join(c if c.isalnum() else "-" for c in device.lower())
    labels = [row["case"] for row in rows]
    series = {n: [row["speedup"].get(n) for row in rows] for n in names if n != "again"}
    svg = plots.bars(f"Models on {device}", labels, series, "times as fast as Inductor")
    return "\n\n".join([f"### On {device}", picture(device, name), times(rows)]), {name: svg}


def times(rows: Sequence[Row]) -> str:
    """Of every version: times and ratios; then memory, kernels, breaks and compile times."""
    names = versions_of(rows, "speedup")
    header = ("case", "layers", "inductor ms", "tilegym ms", "tokens/s", "rate", "of ceiling")
    lines = [
        (
            row["case"],
            f"{row.get('reduced', row)['layers']} of {row['of_layers']}",
            *(milliseconds(row, n) for n in ("inductor", "tilegym")),
            number(row["tokens_per_s"].get("tilegym")),
            rate(row),
            share(row),
            *(cell(row, "speedup", n) for n in names),
            *(spread(row["speedup_same_mode"].get(n)) for n in same_modes(rows)),
        )
        for row in rows
    ]
    modes = [f"{name}, both" for name in same_modes(rows)]
    return f"{table((*header, *names, *modes), lines)}\n\n{costs(rows)}"


def same_modes(rows: Sequence[Row]) -> list[str]:
    """Versions that were compared in a mode of their own."""
    return versions_of(rows, "speedup_same_mode")


def rate(row: Row) -> str:
    """Of tilegym."""
    for column, unit in (("tflop_per_s", "TFLOP/s"), ("gb_per_s", "GB/s")):
        if "tilegym" in row.get(column, {}):
            return f"{number(row[column]['tilegym'])} {unit}"
    return "not measured"


def share(row: Row) -> str:
    """Of the measured ceiling."""
    found = row.get("share_of_ceiling", {}).get("tilegym")
    return "not measured" if found is None else f"{found:.0%}"


def costs(rows: Sequence[Row]) -> str:
    """What a step and a compile take of the machine, tilegym beside Inductor."""
    pair = ("inductor", "tilegym")
    header = ("case", "MiB a step adds", "kernels", "graph breaks", "compile s cold", "warm")
    lines = []
    for row in rows:
        breaks = {n: len(found["breaks"]) for n, found in row["compiled"].items()}
        seconds = row.get("compile_s", {})
        lines.append(
            (
                row["case"],
                both(row["peak_mib"], pair),
                both(row["kernels"], pair),
                both(breaks, pair),
                *(
                    both({n: s.get(at) for n, s in seconds.items()}, pair)
                    for at in ("cold", "warm")
                ),
            )
        )
    return f"Inductor, then tilegym:\n\n{table(header, lines)}"


def both(found: Mapping[str, Any], pair: Sequence[str]) -> str:
    """`12, 10`."""
    if not any(found.get(name) is not None for name in pair):
        return "not measured"
    return ", ".join(number(found.get(name)) or "-" for name in pair)


def code(rows: Sequence[Row]) -> tuple[str, Mapping[str, str]]:
    """What was counted at full size."""
    header = ("case", "layers", "sites", "our launches", "kernels", "GB moved", "times Inductor's")
    lines: list[Sequence[object]] = []
    saved: list[Mapping[str, float] | None] = []
    for row in rows:
        ours, theirs = (row["counted"][n] for n in ("tilegym", "inductor"))
        if "not_counted" in {**ours, **theirs}:
            reason = ours.get("not_counted") or theirs.get("not_counted")
            lines.append((row["case"], row["layers"], f"not counted: {reason}", *[""] * 4))
            saved.append(None)
            continue
        ratio = ours["moved"] / theirs["moved"]
        saved.append({"median": ratio})
        lines.append(
            (
                row["case"],
                f"{row['layers']} of {row['of_layers']}",
                ours["sites"],
                ours["launches"],
                f"{theirs['kernels']}, {ours['kernels']}",
                f"{number(theirs['moved'] / 1e9)}, {number(ours['moved'] / 1e9)}",
                number(ratio),
            )
        )
    title = "Bytes moved, tilegym over Inductor"
    labels = [row["case"] for row in rows]
    svg = plots.bars(title, labels, {"tilegym": saved}, "times Inductor's bytes")
    parts = ("### Code at full size", COUNTED, picture(title, "models-bytes"), table(header, lines))
    return "\n\n".join(parts), {"models-bytes": svg}
