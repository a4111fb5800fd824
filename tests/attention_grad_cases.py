"""Gradients of attention through any of its ops, and arguments of the gradient ops."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from tile_backend.lowering import reference
from tile_backend.lowering.custom_op import record

Arguments = dict[str, Any]
TAKEN = ("q", "k", "v", "sinks")
"""The arguments that may have a gradient."""


def direction(shape: Sequence[int]) -> torch.Tensor:
    """The gradient of a result of attention."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(5))


def gradients(op: Any, given: Arguments, taken: tuple[str, ...] = TAKEN) -> list[torch.Tensor]:
    """Of q, k, v and sinks, by a direction that is the same for every op."""
    given = record("attention").signature.bind((), given)
    leaves = {n: given[n].detach().clone().requires_grad_() for n in taken if given[n] is not None}
    inputs = {**given, **leaves}
    towards = direction((*given["q"].shape[:3], given["v"].shape[3])).to(given["q"].dtype)
    return list(torch.autograd.grad(op(**inputs), list(leaves.values()), towards))


def by_formulas(given: Arguments, order: int = 0) -> list[torch.Tensor]:
    """The same by what the kernels compute, in PyTorch.

    order: other than 0, the features of each head are shuffled, so that every product over them is
    added up in another order. The gradients are in the order of `given`.
    """
    inputs = record("attention").signature.bind((), given)
    towards = direction((*given["q"].shape[:3], given["v"].shape[3])).to(given["q"].dtype)
    if order:
        inputs.update((n, shuffled(inputs[n], order)) for n in ("q", "k", "v"))
        towards = shuffled(towards, order)

    def run(name: str, **arguments: Any) -> Any:
        other = record(name)
        return reference.untupled(reference.run(other.op, other.signature.bind((), arguments)))

    declared = record("attention").op.gradient
    assert declared is not None
    needed = [name for name in TAKEN if inputs[name] is not None]
    results = run("attention_with_lse", **inputs)
    found = declared.backward(run, inputs, results, (towards,), needed)
    if order:
        found = {**found, **{name: restored(found[name], order) for name in ("q", "k", "v")}}
    return [tensor for tensor in map(found.get, needed) if tensor is not None]


def shuffled(x: torch.Tensor, order: int) -> torch.Tensor:
    """Its last dimension in a random order; that number makes it the same for equal sizes."""
    return x[..., places(x.shape[-1], order)]


def restored(x: torch.Tensor | None, order: int) -> torch.Tensor:
    assert x is not None
    return x[..., places(x.shape[-1], order).argsort()]


def places(count: int, order: int) -> torch.Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(order))


def backward_arguments(given: Arguments, dout: torch.Tensor | None = None) -> Arguments:
    """Arguments of the gradient ops for a call of `attention`, with its own log-sum-exp."""
    given = record("attention_with_lse").signature.bind((), given)
    out, lse = record("attention_with_lse").op.reference(**given)
    dout = direction(out.shape).to(out.dtype) if dout is None else dout
    given.update(dout=dout, lse=lse, delta=(dout.float() * out.float()).sum(-1))
    return {n: x for n, x in given.items() if n not in ("sinks", "fill")}
