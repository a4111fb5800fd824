"""Ways to run a model that leave its modules as they are: `bench.models` interleaves them.

All share one model and one cache. What patches modules runs in a process of its own: `model_peers`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from bench.model_cases import Case, fill, set_back_windows

Call = Callable[..., Any]
Maker = Callable[[Any], Call]


def eager(model: Any) -> Call:
    """As it is."""
    found: Call = model
    return found


def compiled(model: Any, backend: str, mode: str | None = None) -> Call:
    """As a user compiles it."""
    found: Call = torch.compile(model, backend=backend, mode=mode, dynamic=False)
    return found


EVERYWHERE: dict[str, Maker] = {
    "eager": eager,
    "inductor": functools.partial(compiled, backend="inductor"),
    "tilegym": functools.partial(compiled, backend="tilegym"),
}
ON_A_GPU: dict[str, Maker] = {
    "inductor reduce-overhead": functools.partial(
        compiled, backend="inductor", mode="reduce-overhead"
    ),
    "tilegym reduce-overhead": functools.partial(
        compiled, backend="tilegym", mode="reduce-overhead"
    ),
    "inductor max-autotune": functools.partial(compiled, backend="inductor", mode="max-autotune"),
}


def makers(device: str) -> dict[str, Maker]:
    """By name."""
    return EVERYWHERE if device == "cpu" else {**EVERYWHERE, **ON_A_GPU}


def step_of(case: Case, call: Call, given: dict[str, Any]) -> Callable[[], torch.Tensor]:
    """One step, and its logits [B, 1, V]; on a GPU it waits for the end."""
    cache = given.get("past_key_values")
    on_a_gpu = given["input_ids"].is_cuda

    def step() -> torch.Tensor:
        if cache is not None:
            set_back_windows(cache, case.filled)
        if on_a_gpu:
            torch.compiler.cudagraph_mark_step_begin()
        logits: torch.Tensor = call(**given).logits
        if on_a_gpu:
            torch.cuda.synchronize()
        return logits

    return step


def judged_step(
    case: Case, step: Callable[[], torch.Tensor], given: dict[str, Any]
) -> torch.Tensor:
    """The logits of a step from the cache as it was made."""
    if "past_key_values" in given:
        fill(given["past_key_values"], case.filled)
    return step()
