"""The cases of `bench.attention` at sizes for tests, by the kind of their mask."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable

import torch

from bench import attention_cases
from bench.attention_cases import Case

GPU, CPU = attention_cases.gpu_cases(), attention_cases.cpu_cases()
SHRINK = 64


def small(case: Case) -> Case:
    """The same case with short sequences, narrow heads and few entries, in float32."""
    return dataclasses.replace(
        case,
        batch=min(case.batch, 4),
        heads=2 * case.groups,
        kv_heads=2,
        width=16,
        queries=max(1, case.queries // SHRINK),
        keys=case.keys // SHRINK,
        size=case.size // SHRINK,
        filled=(case.filled + 1) // SHRINK - 1 if case.decodes else 0,
        dtype=torch.float32,
    )


def smallest(cases: Iterable[Case], kind: Callable[[Case], str]) -> dict[str, Case]:
    """Of each kind."""
    return {kind(case): small(case) for case in sorted(cases, key=lambda case: -case.keys)}


KINDS = smallest((case for case in (*GPU, *CPU) if not case.by_steps), lambda case: case.mask)
"""By the kind of their mask; neither a cap nor sinks."""
WRITTEN_OUT = smallest(
    (case for case in GPU if case.by_steps),
    lambda case: f"{'sinks' if case.sinks else 'cap'} {case.mask}",
)
"""With a soft cap or sinks, by it and the kind of their mask."""
