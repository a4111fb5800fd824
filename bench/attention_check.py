"""Is a version of a case right? Its first heads against float64, within the budget of every result.

Only the first batch entry, and as few heads as gradients of K and V allow: scores of all heads
would not fit into memory. The budget asks what the program itself does there, uncompiled.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

from bench.attention_cases import Case
from bench.attention_programs import program
from bench.attention_versions import outcome
from tile_backend.lowering import oracle
from tile_backend.lowering.budget import Verdict, within_budget

HEADS = 2


@dataclasses.dataclass(frozen=True)
class Part:
    """Of one case: exact results and those of the program, of so many heads."""

    heads: int
    kv_heads: int
    exact: tuple[torch.Tensor, ...]
    original: tuple[torch.Tensor, ...]

    def verdict(self, results: Sequence[torch.Tensor]) -> Verdict:
        """results: of a step, of all heads."""
        counts = (self.heads, self.heads, self.kv_heads, self.kv_heads)[: len(results)]
        given = [x[:1, :count] for x, count in zip(results, counts, strict=True)]
        return within_budget(given, self.exact, self.original)


def part_of(case: Case, inputs: Sequence[torch.Tensor], slope: torch.Tensor | None) -> Part:
    """A gradient of K is the sum over a whole group of query heads."""
    heads = max(HEADS, case.groups) if case.train else HEADS
    kv_heads = -(-heads // case.groups)
    counts = (heads, kv_heads, kv_heads, heads)[: case.by_head]
    few = [some_heads(x, 0, count) for x, count in zip(inputs, counts, strict=False)]
    few = [leaf(x[:1] if x.dim() > 1 else x) for x in few]
    few += [x[:1] if x.dim() else x for x in inputs[case.by_head :]]
    own = None if slope is None else slope[:1, :heads]
    smaller = dataclasses.replace(case, batch=1, heads=heads, kv_heads=kv_heads)
    original = outcome(program(smaller), few, own)
    return Part(heads, kv_heads, exact(smaller, few, own), original)


def some_heads(x: torch.Tensor, first: int, end: int) -> torch.Tensor:
    """x: [B, H, S, D], or [H] of sinks."""
    return x[:, first:end] if x.dim() > 1 else x[first:end]


def leaf(x: torch.Tensor) -> torch.Tensor:
    """The same values, of which a gradient may be asked."""
    return x.detach().requires_grad_(x.requires_grad)


def exact(
    case: Case, inputs: Sequence[torch.Tensor], slope: torch.Tensor | None
) -> tuple[torch.Tensor, ...]:
    """In float64, head by head."""
    one = dataclasses.replace(case, heads=1, kv_heads=1)
    alone = program(one)
    found = []
    for head in range(case.heads):
        of_kv_head = head // case.groups
        places = (head, of_kv_head, of_kv_head, head)[: case.by_head]
        few = [
            leaf(oracle.widened(some_heads(x, i, i + 1)).detach().requires_grad_(x.requires_grad))
            for x, i in zip(inputs, places, strict=False)
        ]
        wide = None if slope is None else oracle.widened(slope[:, head : head + 1])
        with oracle.Float64():
            found.append(outcome(alone, [*few, *inputs[case.by_head :]], wide))
    result, *gradients = (torch.cat(parts, 1) for parts in zip(*found, strict=True))
    if not gradients:
        return (result,)
    of_q, *of_kv = gradients
    return (result, of_q, *(g.unflatten(1, (case.kv_heads, -1)).sum(2) for g in of_kv))
