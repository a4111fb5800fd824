"""Several versions of one job, run turn by turn: times, verdicts, memory, and why some did not run.

`again` is tilegym a second time; its ratio to the first is the noise. A version that is outside its
budget is void, and has no ratio.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from bench import gpu_timer
from tile_backend import step_memory, turns
from tile_backend.lowering.budget import Verdict

Step = Callable[[], Sequence[torch.Tensor]]
REASON = 600
"""Characters of a reason that are kept."""


class UnavailableError(Exception):
    """A version cannot do this job, or is not installed."""


@dataclasses.dataclass
class Found:
    """What one case came to, by version. ran: what tilegym did. times: microseconds. not_run: why.
    peaks: MiB of a step, beyond what is there before.
    """

    ran: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    times: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    verdicts: dict[str, Verdict] = dataclasses.field(default_factory=dict)
    peaks: dict[str, float] = dataclasses.field(default_factory=dict)
    not_run: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def good(self) -> list[str]:
        """What was timed and is right."""
        return [name for name in self.times if self.verdict(name)]

    def verdict(self, name: str) -> Verdict:
        return self.verdicts["tilegym" if name == "again" else name]

    def facts(self) -> dict[str, Any]:
        """Of a row: spreads of microseconds, and of ratios to tilegym in the same round; memory;
        what is right, and what is not, and why.
        """
        ours = self.times["tilegym"] if "tilegym" in self.good else []
        over = {
            name: turns.spread(
                [theirs / own for theirs, own in zip(self.times[name], ours, strict=True)]
            )
            for name in self.good
            if ours and name != "tilegym"
        }
        times = {name: turns.spread(values) for name, values in self.times.items()}
        judged = {name: self.verdict(name) for name in (*self.verdicts, *times)}
        return {
            "ran": dict(self.ran),
            "time_us": {name: rounded(spread) for name, spread in times.items()},
            "over_tilegym": {name: rounded(spread) for name, spread in over.items()},
            "peak_mib": {name: round(peak, 1) for name, peak in self.peaks.items()},
            "correct": {name: bool(verdict) for name, verdict in judged.items()},
            "budget_used": {name: significant(verdict.used) for name, verdict in judged.items()},
            "void": {name: str(verdict) for name, verdict in judged.items() if not verdict},
            "not_run": dict(self.not_run),
        }


def reason_of(error: Exception) -> str:
    """In one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:REASON]


def warm_steps(
    makers: Mapping[str, Callable[[], tuple[Step, Verdict]]],
    device: str,
    found: Found,
    what_ran: Callable[[], Mapping[str, Any]],
) -> dict[str, Step]:
    """The steps that run. Verdicts, memory on a GPU, and why others did not run go into `found`.

    makers: each gives a warm step and its verdict. what_ran: asked right after tilegym's.
    """
    steps: dict[str, Step] = {}
    for name, make in makers.items():
        try:
            step, found.verdicts[name] = make()
            if device != "cpu":
                found.peaks[name] = step_memory.gpu_peak_mib(step)
        except Exception as error:  # noqa: BLE001 - whatever it is, the row has it
            found.not_run[name] = reason_of(error)
        else:
            steps[name] = step
        if name == "tilegym":
            found.ran = what_ran()
    return steps


def captured(steps: Mapping[str, Step], found: Found) -> dict[str, Callable[[], None]]:
    """CUDA graphs of those that can be captured."""
    replays = {}
    for name, step in steps.items():
        try:
            replays[name] = gpu_timer.captured(step)
        except RuntimeError as error:
            found.not_run[name] = f"not captured: {reason_of(error)}"
    return replays


def with_again(steps: Mapping[str, Any]) -> dict[str, Any]:
    """tilegym a second time."""
    return {**steps, "again": steps["tilegym"]} if "tilegym" in steps else dict(steps)


def time_on_host(steps: Mapping[str, Step], rounds: int) -> dict[str, list[float]]:
    """Microseconds of whole steps as a program waits for them, `again` included."""
    seconds = turns.time_rounds(with_again(steps), rounds)
    return {name: [1e6 * s for s in values] for name, values in seconds.items()}


def time_on_device(steps: Mapping[str, Step], rounds: int, found: Found) -> dict[str, list[float]]:
    """Microseconds of the GPU alone, `again` included; what cannot be captured is in `found`."""
    torch.cuda.empty_cache()
    replays = with_again(captured(steps, found))
    return gpu_timer.time_replays(replays, rounds) if replays else {}


def rounded(spread: Mapping[str, float]) -> dict[str, float]:
    """To four digits."""
    return {name: significant(value) for name, value in spread.items()}


def significant(value: float) -> float:
    """To four digits."""
    return float(f"{value:.4g}")
