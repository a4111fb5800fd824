"""Is a version of a model right? Its logits against the eager model in a wider dtype.

The budget asks what the eager model itself does in the dtype of the run. Up to WIDEST tokens the
exact logits are those of float64, beyond of float32, since scores in float64 would not fit. Of a
decode step the first ENTRIES sequences are compared: they do not depend on the others.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch

from bench.model_cases import Case
from tile_backend.lowering import oracle
from tile_backend.lowering.budget import Verdict, within_budget

WIDEST, ENTRIES = 2048, 2
LARGEST = 10**9
"""Parameters of a model of which there is room for a copy in float64."""


def exact_dtype(case: Case, numbers: int) -> torch.dtype:
    """numbers: parameters."""
    if case.dtype == torch.float32:
        return torch.float64
    fits = case.length <= WIDEST and numbers <= LARGEST
    return torch.float64 if fits else torch.float32


def judge(
    case: Case, model: Any, whole: Mapping[str, Any]
) -> tuple[Callable[[torch.Tensor], Verdict], str]:
    """What holds logits [B, 1, V] against the exact ones; what is compared, in words.

    whole: the arguments of a step, whose cache has just been filled, as it has to be before each
    step that is judged.
    """
    few = dataclasses.replace(case, batch=min(case.batch, ENTRIES))
    wide = exact_dtype(case, sum(p.numel() for p in model.parameters()))
    given, widened = (sliced(few, whole, dtype) for dtype in (case.dtype, wide))
    original = model(**given).logits
    exact = exact_logits(model, widened, wide)
    words = f"{few.batch} of {case.batch} sequences, against {str(wide).removeprefix('torch.')}"
    return lambda logits: within_budget([logits[: few.batch]], [exact], [original]), words


def sliced(few: Case, whole: Mapping[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """The arguments of the first sequences, with a cache of that dtype of their own."""
    if not few.decodes:
        return dict(whole)
    rows = {name: whole[name][: few.batch] for name in ("input_ids", "position_ids")}
    device = str(rows["input_ids"].device)
    cache = dataclasses.replace(few, dtype=dtype).cache(device, values=False)
    for old, new in zip(whole["past_key_values"].layers, cache.layers, strict=True):
        new.keys.copy_(old.keys[: few.batch])
        new.values.copy_(old.values[: few.batch])
    return {**whole, **rows, "past_key_values": cache}


def exact_logits(model: Any, given: Mapping[str, Any], wide: torch.dtype) -> torch.Tensor:
    """Of a copy of the model; in float64 under the oracle's mode."""
    if wide is torch.float32:
        logits: torch.Tensor = copy.deepcopy(model).float()(**given).logits
        return logits
    copied = oracle.widened(model)
    with oracle.Float64():
        logits = copied(**given).logits
    return logits
