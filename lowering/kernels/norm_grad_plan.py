"""What the plans of the norms' gradients share: results that are not wanted, hints, samples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from tile_backend.lowering.kernels.launch_plan import Sample
from tile_backend.lowering.kernels.norm_plan import gain_or
from tile_backend.lowering.kernels.row_layout import row_tile

BOTH, X, NEITHER = 2, 1, 0
"""Of x and dout, what of a row stays in registers between its sums and its gradient. The rest is
read again, from a cache."""


def held(width: int, most: Mapping[int, int]) -> int:
    """Of a row of that many features. most: pieces of a row -> what is held up to so many."""
    pieces = -(-width // row_tile(width).block)
    return next((what for count, what in sorted(most.items()) if pieces <= count), NEITHER)


def wanted(outputs: Iterable[torch.Tensor | None]) -> list[torch.Tensor | None]:
    """The results, None for one that nobody reads, and for one that was not asked for."""
    return [None if out is None or out.numel() == 0 else out for out in outputs]


def gain_rows(x: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
    """The weight as rows like x's, without a copy: else the compiler keeps all of it in registers.

    x itself where there is none, which the kernel does not read.
    """
    if weight is None:
        return x
    return gain_or(x, "weight", weight, x.shape[-1]).expand(x.shape)


ROWS: tuple[tuple[str, tuple[int, ...], torch.dtype | None], ...] = (
    ("heads", (2, 64, 32, 128), torch.bfloat16),
    ("float32_weight", (64, 2048), torch.float32),
    ("usual", (64, 4096), torch.bfloat16),
    ("between", (64, 5120), torch.bfloat16),
    ("large", (64, 8192), torch.bfloat16),
    ("widest", (4, 32768), torch.bfloat16),
    ("weightless", (64, 1000), None),
)
"""Names, shapes and dtypes of the weight of the samples: row tiles, counts of pieces."""


def norm_grad_samples(gains: tuple[str, ...], attributes: Mapping[str, Any]) -> list[Sample]:
    """All gradients at every length of rows, then without those of the gains.

    gains: weight, and bias; the arguments `<gain>_parts` say whether they have a gradient.
    attributes: the arguments that are the same in all samples.
    """
    samples: list[Sample] = []
    for name, shape, dtype in ROWS:
        x = torch.empty(shape, dtype=torch.bfloat16, device="meta")
        weight = None if dtype is None else x.new_empty(shape[-1:], dtype=dtype)
        numbers = dict.fromkeys((f"{gain}_parts" for gain in gains), 0 if weight is None else 16)
        arguments = {"dout": x.clone(), "x": x, "weight": weight, **attributes, **numbers}
        sums = [x.new_empty((n, shape[-1]), dtype=torch.float32) for n in numbers.values()]
        samples.append((name, arguments, (x.clone(), *(s if len(s) else None for s in sums))))
    _, arguments, (dx, *_sums) = samples[2]
    frozen = {**arguments, **dict.fromkeys((f"{gain}_parts" for gain in gains), 0)}
    return [*samples, ("frozen", frozen, (dx, *(None for _ in gains)))]
