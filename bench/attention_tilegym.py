"""TileGym's own ops for the attention of a case: what its patches of models call.

They take no mask as a tensor, so a case is theirs where its mask is a flag or a number.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import torch

from bench.attention_cases import Case
from bench.attention_programs import Program
from bench.versions import UnavailableError

Maker = Callable[[Case, Any], Program]


def by_tilegym(case: Case, inputs: Sequence[torch.Tensor]) -> Program:
    """Raises UnavailableError where there is no such op, or no TileGym."""
    if case.train:
        raise UnavailableError("TileGym's op has no gradient")
    name, masks, make = op_of(case)
    if case.mask not in masks:
        raise UnavailableError(f"{name} takes no mask of the kind {case.mask}")
    try:
        return make(case, getattr(importlib.import_module("tilegym.ops"), name))
    except (ImportError, AttributeError, OSError) as error:
        raise UnavailableError(f"TileGym cannot be imported: {error}") from error


def op_of(case: Case) -> tuple[str, tuple[str, ...], Maker]:
    """Its name, the masks that it can say, and how it is called."""
    if case.sinks:
        if case.decodes:
            return "attention_sink_decode", ("decode",), with_sinks
        return "attention_sink", ("causal", "window"), with_sinks
    if case.cap:
        return "gemma_attention", ("causal", "window"), with_cap
    return "fmha", ("none", "causal"), plain


def plain(case: Case, op: Any) -> Program:
    """fmha"""
    given = {"scaling": case.scale, "is_causal": case.mask == "causal"}
    return lambda q, k, v: op(q, k, v, **given)


def with_cap(case: Case, op: Any) -> Program:
    """gemma_attention; its window counts the keys before the query's own, 0 for no window."""
    window = case.size - 1 if case.size else 0
    given = {"scaling": case.scale, "soft_cap": case.cap, "window_size": window}
    return lambda q, k, v: op(q, k, v, is_causal=True, **given)


def with_sinks(case: Case, op: Any) -> Program:
    """attention_sink, attention_sink_decode: q as [B, S, KV heads, groups, D], k and v as
    [B, L, KV heads, D], the result as [B, S, H * D]; start_q is the place of the first query.
    """

    def attend(
        q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, sinks: torch.Tensor, *filled: Any
    ) -> torch.Tensor:
        result = op(
            q.transpose(1, 2).unflatten(2, (case.kv_heads, case.groups)),
            k.transpose(1, 2),
            v.transpose(1, 2),
            sinks,
            sm_scale=case.scale,
            sliding_window=case.size or None,
            start_q=filled[0].reshape(1) if filled else 0,
        )
        of_heads: torch.Tensor = result.unflatten(2, (case.heads, case.width)).transpose(1, 2)
        return of_heads

    return attend
