"""What is wanted of an H200, as ratios of one run, and what the results say: met, missed, or not
measured.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

Row = Mapping[str, Any]
Results = Mapping[str, Mapping[str, Any]]
"""By bench."""
NO_SLOWER = 0.98
"""Times as fast as Inductor: slower by 2 %."""
LARGE = 64 * 2**20
"""Bytes from which on a kernel is to reach PART of the bandwidth of a copy."""
PART = 0.9


@dataclasses.dataclass(frozen=True)
class Target:
    """values: the cases that it is about, with what they reached; wanted: at least."""

    text: str
    wanted: float
    values: Callable[[Results], Iterator[tuple[str, float]]]

    def verdict(self, results: Results) -> str:
        """In words; the worst case is named."""
        found = sorted(self.values(results), key=lambda pair: pair[1])
        if not found:
            return "not measured"
        met = sum(value >= self.wanted for _, value in found)
        case, worst = found[0]
        of = f"{met} of {len(found)} cases; worst {worst:.2f}, {case}"
        if met == len(found):
            return f"met in {of}"
        return f"missed by {1 - worst / self.wanted:.0%}: met in {of}"


def on_gpus(results: Results, bench: str) -> Iterator[Row]:
    """The rows of a bench that a GPU measured."""
    for row in results.get(bench, {}).get("rows", ()):
        if row.get("device", "cpu") != "cpu":
            yield row


def speedups(version: str, over: str = "inductor") -> Callable[[Results], Any]:
    """Of models: how many times as fast as another version."""

    def values(results: Results) -> Iterator[tuple[str, float]]:
        for row in on_gpus(results, "models"):
            ours, theirs = (row["speedup"].get(name) for name in (version, over))
            if ours and over == "inductor":
                yield row["case"], ours["median"]
            elif ours and theirs:
                yield row["case"], ours["median"] / theirs["median"]

    return values


def of(phase: str, values: Callable[[Results], Iterator[tuple[str, float]]]) -> Callable[..., Any]:
    """Those of cases whose title has these words."""
    return lambda results: (pair for pair in values(results) if phase in pair[0])


def same_mode(results: Results) -> Iterator[tuple[str, float]]:
    """Of models, both with CUDA graphs."""
    for row in on_gpus(results, "models"):
        for spread in row["speedup_same_mode"].values():
            yield row["case"], spread["median"]


def sites(results: Results) -> Iterator[tuple[str, float]]:
    """Of fusions: what the gate chose, against Inductor."""
    for row in on_gpus(results, "fusions"):
        ours, theirs = (row["over_tilegym"].get(name) for name in ("auto", "inductor"))
        if ours and theirs:
            yield row["case"], theirs["median"] / ours["median"]


def bandwidth(results: Results) -> Iterator[tuple[str, float]]:
    """Of fusions that are bound by memory, and large: the share of a copy's bandwidth."""
    for row in on_gpus(results, "fusions"):
        share = row.get("share_of_ceiling", {}).get("tilegym")
        if not row["flop"] and row["bytes"] >= LARGE and share is not None:
            yield row["case"], share


TARGETS = (
    Target("no model slower than Inductor by more than 2 %", NO_SLOWER, speedups("tilegym")),
    Target("the same with CUDA graphs, both", NO_SLOWER, same_mode),
    Target(
        "no fusion slower than Inductor by more than 2 %, as the gate chooses", NO_SLOWER, sites
    ),
    Target(
        "prefill of 8192 tokens 1.3 times as fast as Inductor",
        1.3,
        of("prefill 8192", speedups("tilegym")),
    ),
    Target(
        "prefill of 8192 tokens 1.5 times as fast as with TileGym's patches",
        1.5,
        of("prefill 8192", speedups("tilegym", "TileGym patched")),
    ),
    Target(
        "decoding 1.2 times as fast as Inductor, both with CUDA graphs",
        1.2,
        of("decode", same_mode),
    ),
    Target(
        "kernels that memory bounds at 0.9 of the bandwidth of a copy, from 64 MiB on",
        PART,
        bandwidth,
    ),
)
