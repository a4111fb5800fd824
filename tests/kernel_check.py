"""Holds a kernel's results against float64, within the budget that its reference's errors give."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from tile_backend.lowering import interpreted, oracle, reference
from tile_backend.lowering.budget import Verdict
from tile_backend.lowering.certify import DRAWS
from tile_backend.lowering.custom_op import Record

UNWRITTEN = -77
"""Nothing that a kernel computes in a test: what it leaves unwritten shows."""


def outputs_of(op: Record, values: Mapping[str, Any]) -> list[torch.Tensor]:
    """Its results' tensors, not yet written, on the device of the arguments."""
    made = reference.as_tuple(op.op.outputs(**values))
    return [out.fill_(UNWRITTEN) for out in made]


def verdict_on(
    op: Record, values: Mapping[str, Any], *ours: Sequence[torch.Tensor]
) -> list[Verdict]:
    """One verdict for each set of results; all of them and `values` on one device."""
    theirs = reference.run(op.op, values)
    exact = reference.as_tuple(oracle.float64(op.op.reference)(**values))
    return [
        oracle.within_budget(
            results, exact, tuple(map(right_where_ours_is, results, exact, theirs))
        )
        for results in ours
    ]


def right_where_ours_is(
    ours: torch.Tensor, exact: torch.Tensor, theirs: torch.Tensor
) -> torch.Tensor:
    """The reference's result, corrected where the exact one is infinite or NaN, and ours is that.

    torch's gelu of infinity is NaN, and its attention of -inf scores only is 0.
    """
    same = (ours == exact) | (ours.isnan() & exact.isnan())
    return torch.where(same & ~exact.isfinite(), ours, theirs)


def varied(values: dict[str, Any], seed: int) -> dict[str, Any]:
    """The same with every float times a number in [0.5, 1.5)."""
    generator = torch.Generator().manual_seed(seed)

    def other(value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or not value.is_floating_point():
            return value
        factor = torch.rand(value.shape, generator=generator) + 0.5
        return torch.empty_like(value).copy_(value * factor.to(value.dtype))

    return {name: other(value) for name, value in values.items()}


def verdict_on_several(op: Record, values: dict[str, Any]) -> Verdict:
    """On these values and on others of their kind as one, as certificates are judged.

    On one set alone it is luck where the reference's largest error falls.
    """
    sets = []
    for seed in range(DRAWS):
        given = values if seed == 0 else varied(values, seed)
        ours = outputs_of(op, given)
        interpreted.run(op, given, ours)
        theirs = reference.run(op.op, given)
        exact = reference.as_tuple(oracle.float64(op.op.reference)(**given))
        known = tuple(map(right_where_ours_is, ours, exact, theirs))
        sets.append((tuple(ours), tuple(exact), known))
    runs = [
        [torch.stack(parts) for parts in zip(*each, strict=True)]
        for each in zip(*sets, strict=True)
    ]
    return oracle.within_budget(*runs)


def check_interpreted(op: Record, values: dict[str, Any]) -> None:
    """The kernel's results are within the budget that the reference's errors give."""
    before = {n: v.clone() for n, v in values.items() if isinstance(v, torch.Tensor)}
    ours = outputs_of(op, values)
    interpreted.run(op, values, ours)
    (verdict,) = verdict_on(op, values, ours)
    if not verdict and math.isfinite(verdict.used):
        verdict = verdict_on_several(op, values)
    assert verdict, str(verdict)
    for name, tensor in before.items():
        assert torch.equal(tensor.nan_to_num(77), values[name].nan_to_num(77)), f"{name} is written"
