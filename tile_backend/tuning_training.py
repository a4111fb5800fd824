"""The launches of a call in training: what runs forward in its place, and its declared backward.

Found on meta tensors, as composition.called finds the launches of an op that is made of others. A
call whose backward is derived from its reference launches nothing there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from tile_backend.lowering import composition, custom_op, reference
from tile_backend.lowering.prune import Call


def in_training(call: Call, needed: Sequence[str]) -> Iterator[Call]:
    """needed: the arguments of the call that need a gradient."""
    record = custom_op.record(call.op)
    op, gradient = record.op, record.op.gradient
    arguments = dict(zip(call.names, call.values, strict=False))
    if gradient is None or not gradient.applies(arguments, needed):
        return
    if gradient.named:
        arguments[gradient.named] = ",".join(needed)
    forward = custom_op.record(op.in_training).op
    results = reference.as_tuple(forward.outputs(**arguments))
    found: list[tuple[str, dict[str, Any], Sequence[torch.Tensor | None]]] = []
    read = call.values[len(call.names) :]
    found.append((forward.name, arguments, (*unread(results, read), *results[len(read) :])))

    def run(name: str, **given: Any) -> Any:
        other = custom_op.record(name)
        filled = other.signature.bind((), given)
        outputs = reference.as_tuple(other.op.outputs(**filled))
        found.append((name, filled, [out if out.numel() else None for out in outputs]))
        return reference.untupled(outputs)

    kept = [results[index] for index in gradient.kept]
    cotangents = [torch.empty_like(out) for out in results[: record.signature.results]]
    with torch.no_grad():
        gradient.backward(run, arguments, kept, cotangents, needed)
    for name, given, outputs in found:
        values = (*given.values(), *outputs)
        for inner, names, passed in composition.called(name, tuple(given), values):
            yield Call(inner, names, passed, call.arch)


def unread(
    results: Sequence[torch.Tensor], read: Sequence[torch.Tensor | None]
) -> Iterator[torch.Tensor | None]:
    """The results of the op itself, None for one that nobody reads."""
    for result, wanted in zip(results, read, strict=False):
        yield None if wanted is None else result
