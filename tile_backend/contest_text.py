"""A contest as a table with one sentence that says who won, and as JSON."""

from __future__ import annotations

import datetime as dt
import json
import platform
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from tile_backend import atomic_files, machine, turns
from tile_backend.contest import Contest, Version
from tile_backend.errors import FileNotSaved, ReportFolderError
from tile_backend.report_text import aligned
from tile_backend.version import VERSION

SCHEMA = 1
HEADER = (
    *("", "ms", "p10..p90", "times as fast as inductor", "correct", "compile s", "MiB a step adds"),
    *("kernels", "graphs", "breaks"),
)


def to_text(contest: Contest) -> str:
    """The table, what is missing in it and why, the sentence."""
    faster = ratios(contest)
    rows: list[tuple[str, ...]] = [HEADER]
    for name, found in contest.versions.items():
        rows.append((name, *times(found), ratio(faster.get(name)), *columns(found)))
    where = f"{contest.title} on {contest.device}, {contest.rounds} rounds"
    lines = [where + (f", mode={contest.mode}" if contest.mode else ""), *aligned(rows)]
    lines += [f"void: {n}: {v.verdict}" for n, v in contest.versions.items() if v.void]
    for name, found in contest.versions.items():
        lines += [f"graph break: {name}: {text}" for text in dict.fromkeys(found.breaks)]
        lines += [f"no {column}: {name}: {text}" for column, text in found.missing.items()]
    return "\n".join([*lines, sentence(contest)])


def times(found: Version) -> tuple[str, str]:
    """Median and spread in milliseconds."""
    if not found.seconds:
        return "-", "-"
    spread = {n: 1e3 * s for n, s in turns.spread(found.seconds).items()}
    return f"{spread['median']:.4g}", f"{spread['p10']:.4g}..{spread['p90']:.4g}"


def ratio(spread: dict[str, float] | None) -> str:
    """With its spread; "" of inductor itself and of what is void."""
    if spread is None:
        return ""
    return f"{spread['median']:.2f} ({spread['p10']:.2f}..{spread['p90']:.2f})"


def columns(found: Version) -> tuple[str, ...]:
    """What follows the times."""
    used = "" if found.verdict is None else f"{found.verdict.used:.0%} of budget"
    return (
        "void" if found.void else used or "not checked",
        "" if found.compile_s is None else f"{found.compile_s:.1f}",
        "" if found.peak_mib is None else f"{found.peak_mib:.1f}",
        "" if found.kernels is None else str(found.kernels),
        "" if found.graphs is None else str(found.graphs),
        "" if found.graphs is None else str(len(found.breaks)),
    )


def ratios(contest: Contest) -> dict[str, dict[str, float]]:
    """How many times as fast as Inductor, round by round."""
    return turns.over({n: v.seconds for n, v in contest.ran.items()}, "inductor")


def sentence(contest: Contest) -> str:
    """Who won and by how much, or that nobody did beyond the spread."""
    ran = contest.ran
    if len(ran) < 2:
        left = f"only {next(iter(ran))} ran and is right" if ran else "no version ran and is right"
        return f"No winner: {left}."
    best = min(ran, key=lambda name: statistics.median(ran[name].seconds))
    level, slower = [], []
    for name in ran:
        if name == best:
            continue
        spread = turns.over({n: ran[n].seconds for n in (name, best)}, name)[best]
        if spread["p10"] > 1:
            slower.append(f"{ratio(spread)} times as fast as {name}")
        else:
            level.append((name, ratio(spread)))
    if level:
        names = listed([best, *(name for name, _ in level)])
        within = ", ".join(f"{text} against {name}" for name, text in level)
        beside = f"; it is {listed(slower)}" if slower else ""
        return f"No winner within the spread: {names} are level ({best} {within}){beside}."
    return f"{best} wins: it is {listed(slower)}."


def listed(words: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def to_json(contest: Contest) -> str:
    """Every sample, and where it was measured."""
    faster = ratios(contest)
    content = {
        "schema_version": SCHEMA,
        "title": contest.title,
        "device": contest.device,
        "rounds": contest.rounds,
        "mode": contest.mode,
        "date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version(), "torch": torch.__version__}
        | {"tile-backend": VERSION},
        "machine": {"system": platform.platform(), "threads": torch.get_num_threads()}
        | {"gpus": [gpu.name for gpu in machine.gpus()], "driver": machine.driver_version()},
        "rows": [row(name, found, faster) for name, found in contest.versions.items()],
        "sentence": sentence(contest),
    }
    return json.dumps(content, indent=2)


def save(contest: Contest, path: str) -> None:
    """Write the JSON. Raises FileNotSaved."""
    target = Path(path)
    try:
        atomic_files.write_text(target, to_json(contest) + "\n")
    except ReportFolderError as error:
        raise FileNotSaved(path=path, cause=error.fields["cause"]) from error


def row(name: str, found: Version, faster: dict[str, dict[str, float]]) -> dict[str, Any]:
    """Of one version."""
    return {
        "version": name,
        "seconds": found.seconds,
        "over_inductor": faster.get(name),
        "correct": None if found.verdict is None else bool(found.verdict),
        "budget": None if found.verdict is None else str(found.verdict),
        "compile_s": found.compile_s,
        "peak_mib": found.peak_mib,
        "kernels": found.kernels,
        "graphs": found.graphs,
        "breaks": found.breaks,
        "missing": found.missing,
    }
