"""The backward of attention, by two ops that compute the softmax's weights again, tile by tile.

Beside the inputs, the result and its log-sum-exp are all it needs (Dao et al., arXiv:2205.14135,
appendix B.4): nothing that has an element per query and key is kept.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from tile_backend.lowering.fusion import Gradient, Run
from tile_backend.patterns import _attention_on_cpu as on_cpu
from tile_backend.patterns._attention_math import is_added

DIFFERENTIABLE = frozenset(("q", "k", "v", "sinks"))


def applies(arguments: Mapping[str, Any], needed: Sequence[str]) -> bool:
    """Not for a mask that is learned, nor where hidden scores are numbers that have weight.

    With a `fill` only for a mask that is added and alone: then a query that sees nothing has nan
    for every key, and every gradient it takes part in is nan. And nobody trains through a static
    cache, which is what has an `offset`.
    """
    softmax = arguments["fill"] is None or (is_added(arguments["mask"]) and is_alone(arguments))
    plain = softmax and arguments["offset"] is None
    return plain and DIFFERENTIABLE.issuperset(needed)


def is_alone(arguments: Mapping[str, Any]) -> bool:
    """Whether nothing but the mask hides a key."""
    rules = (arguments[name] for name in ("padding", "segments", "window", "chunk"))
    return not arguments["is_causal"] and all(rule is None for rule in rules)


def backward(
    run: Run,
    arguments: Mapping[str, Any],
    results: Sequence[torch.Tensor],
    cotangents: Sequence[torch.Tensor],
    needed: Sequence[str],
) -> dict[str, torch.Tensor | None]:
    """See Gradient. delta and the gradient of the sinks are ATen, which Inductor fuses."""
    (dout,), (out, lse) = cotangents, results
    delta = (dout.float() * out.float()).sum(-1)
    given = {n: x for n, x in arguments.items() if n not in ("sinks", "fill")}
    given.update(dout=dout, lse=lse, delta=delta)
    found: dict[str, torch.Tensor | None] = {}
    if "q" in needed:
        found["q"] = run("attention_grad_q", **given)
    if "k" in needed or "v" in needed:
        found["k"], found["v"] = run("attention_grad_kv", **given)
    if "sinks" in needed:
        found["sinks"] = grad_sinks(arguments["sinks"], lse, delta)
    return found


def applies_on_cpu(arguments: Mapping[str, Any], needed: Sequence[str]) -> bool:
    """Where flash attention may run; else the derivative of the reference is the original's."""
    return on_cpu.possible(arguments) and applies(arguments, needed)


def backward_on_cpu(
    run: Run,
    arguments: Mapping[str, Any],
    results: Sequence[torch.Tensor],
    cotangents: Sequence[torch.Tensor],
    needed: Sequence[str],
) -> dict[str, torch.Tensor | None]:
    """One call computes all three, as PyTorch's own does."""
    given = {n: x for n, x in arguments.items() if n != "sinks"}
    out, lse = results
    found = run("attention_grad", **given, dout=cotangents[0], out=out, lse=lse)
    return {name: x for name, x in zip(("q", "k", "v"), found, strict=True) if name in needed}


def grad_sinks(sinks: torch.Tensor, lse: torch.Tensor, delta: torch.Tensor) -> torch.Tensor:
    """-sum(weight * delta): a sink is a key whose value is 0. delta [B, H, S]; lse as saved."""
    column = sinks.float().reshape(1, -1, 1)
    if lse.dim() == delta.dim():
        whole, weights = lse, torch.exp(column - lse)
    else:  # in two parts, as for a mask that is added
        whole, weights = lse[0], torch.exp(column - lse[0] - lse[1])
    weights = weights.masked_fill(whole == -math.inf, 0.0)  # a sink of -inf, and no key
    return -(weights * delta).sum((0, 2)).reshape(sinks.shape).to(sinks.dtype)


GRADIENT = Gradient(
    applies=applies, backward=backward, saving="attention_with_lse", kept=(0, 1), always=True
)
"""Also where no kernel runs: it keeps less."""
ON_CPU = Gradient(
    applies=applies_on_cpu, backward=backward_on_cpu, saving="attention_with_lse", kept=(0, 1)
)
