"""docs/benchmarks.md and its plots, written from bench/results/ alone: `python -m bench.page`.

A test holds the page to the results, so whoever saves a result writes the page as well.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import page_models, page_sections, result_file
from bench.markdown import table
from bench.page_sections import Result, Section, raced
from bench.targets import TARGETS

PAGE = Path("docs/benchmarks.md")
PLOTS = Path("docs/benchmarks")
ABOUT = """\
# Benchmarks

Written by `python -m bench.page` from the JSON files in [bench/results](../bench/results) and
nothing else; `make bench` measures all of it again. Every time is a median with its first and
last decile. A version whose results are not within the error budget against float64
([numerics](../DESIGN.md#numerics)) is void: it has no ratio. "again" is the same code a second
time: what it differs from 1 is noise. What was not measured is called that."""

SECTIONS: Mapping[str, tuple[str, Callable[[Result], Section]]] = {
    "models": ("Whole models", page_models.section),
    "fusions": (
        "Fusions",
        raced(
            "Fusions",
            "fusions",
            "Each fusion alone, at the shapes of its declaration, of TileGym's and Liger's benches"
            ", and of models. On a GPU `tilegym` runs its kernels, `auto` what the gate chooses.",
        ),
    ),
    "attention": (
        "Attention",
        raced("Attention", "attention", "As Transformers writes it, with every kind of mask."),
    ),
    "training": (
        "Training",
        raced(
            "Training",
            "training",
            "Single fusions forward and backward, then whole steps with loss and optimiser.",
        ),
    ),
    "cpu_prefill": ("Prefill on a CPU", page_sections.cpu_prefill),
    "cpu_parity": ("Step time on a CPU", page_sections.cpu_parity),
    "compile_time": ("Compile time", page_sections.compile_time),
    "load": ("Load", page_sections.load),
    "launch_overhead": ("Launch overhead", page_sections.launch_overhead),
    "static_counters": ("Static counters", page_sections.static_counters),
}
"""By bench: its title, and what writes it."""


def pages(results: Mapping[str, Result]) -> dict[Path, str]:
    """Every file of the page, by path from the root."""
    parts = [ABOUT, targets(results), ran(results)]
    files: dict[Path, str] = {}
    for bench, (title, section) in SECTIONS.items():
        if bench not in results:
            parts.append(
                f"## {title}\n\n**Not measured**: `python -m bench.{bench}` has no result."
            )
            continue
        text, plots = section(results[bench])
        parts.append(text)
        files |= {PLOTS / f"{name}.svg": svg for name, svg in plots.items()}
    return {PAGE: "\n\n".join(parts) + "\n", **files}


def targets(results: Mapping[str, Result]) -> str:
    """What is wanted of an H200, and what there is."""
    lines = [(target.text, target.verdict(results)) for target in TARGETS]
    return "## Targets\n\nOf an H200, as ratios of one run.\n\n" + table(
        ("target", "result"), lines
    )


def ran(results: Mapping[str, Result]) -> str:
    """Where every number comes from."""
    header = ("bench", "machine", "versions", "commit", "date", "command")
    lines = [line for bench in SECTIONS if bench in results for line in origins(results[bench])]
    return "## What ran where\n\n" + table(header, lines)


def origins(result: Result) -> Iterator[Sequence[str]]:
    """One line per run; runs of one day that differ in their cases alone share one."""
    commands: dict[Sequence[str], list[str]] = {}
    for run in result.get("runs", (result,)):
        commands.setdefault(circumstances(result["bench"], run), []).append(run["command"])
    for shared, given in commands.items():
        yield (*shared, in_one_cell(f"python -m bench.{result['bench']}", given))


def in_one_cell(program: str, commands: Sequence[str]) -> str:
    """Each command; of several only the arguments."""
    if len(commands) == 1:
        return f"`{commands[0]}`"
    pieces = [f"`{command.removeprefix(program).strip()}`" for command in commands]
    return f"`{program}` in pieces: {', '.join(pieces)}"


def circumstances(bench: str, run: Mapping[str, Any]) -> Sequence[str]:
    """Of a run, all columns but the command."""
    machine, versions = run["machine"], run["versions"]
    cores = f"{machine['cores']} cores of {machine['processor']}"
    names = ("torch", "triton", "transformers", "cuda-tile")
    return (
        bench,
        f"{machine['gpu']}, driver {machine['driver']}" if "gpu" in machine else cores,
        ", ".join(f"{n} {versions[n]}" for n in names if versions[n] != "not installed"),
        run["commit"][:9] + ("+changes" if run["commit"].endswith("+changes") else ""),
        run["date"][:10],
    )


def load(folder: Path) -> dict[str, Any]:
    """The results that have a section, by bench."""
    paths = {bench: folder / f"{bench}.json" for bench in SECTIONS}
    return {b: json.loads(p.read_text("utf-8")) for b, p in paths.items() if p.is_file()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the page; plots of results that are gone go as well."""
    parser = argparse.ArgumentParser(prog="bench.page", description="Write docs/benchmarks.md.")
    parser.parse_args(arguments)
    made = pages(load(result_file.RESULTS))
    for old in (result_file.ROOT / PLOTS).glob("*.svg"):
        if old.relative_to(result_file.ROOT) not in made:
            old.unlink()
    for path, text in made.items():
        target = result_file.ROOT / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    print(f"wrote {', '.join(map(str, made))}")


if __name__ == "__main__":
    main()
