"""The cases of `bench.attention` at sizes for tests, by the kind of their mask."""

from __future__ import annotations

import dataclasses

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


KINDS = {case.mask: small(case) for case in sorted((*GPU, *CPU), key=lambda case: -case.keys)}
"""The smallest of each kind of mask."""
