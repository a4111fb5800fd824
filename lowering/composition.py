"""Ops without a kernel of their own: what they launch, and running them.

`Op.composed` fills an op's outputs with ATen and launches of other ops. Here it is run on the
device of its tensors: with kernels, interpreted, or on the CPU with the references of those ops.
On meta tensors it says which kernels a call will launch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from tile_backend.lowering import custom_op, failure, kernel_launch, reference
from tile_backend.lowering.custom_op import Record
from tile_backend.lowering.fusion import Op, Run

Outputs = Sequence[torch.Tensor | None]
Fill = Callable[[Record, Mapping[str, Any], Outputs], None]
"""(op, its arguments by name, outputs to fill)."""


def on_kernels(record: Record, arguments: Mapping[str, Any], outputs: Outputs, fill: Fill) -> None:
    """fill: how a call of another op is run."""
    compose(record.op, arguments, outputs, filling(fill))


def on_references(record: Record, arguments: Mapping[str, Any], outputs: Outputs) -> None:
    def run(name: str, **given: Any) -> Any:
        other = custom_op.record(name)
        return reference.untupled(reference.run(other.op, other.signature.bind((), given)))

    compose(record.op, arguments, outputs, run)


def or_reference(
    record: Record, arguments: Mapping[str, Any], outputs: Outputs, fill: Callable[[], object]
) -> None:
    """Fill the outputs; by the op's reference where what it is made of fails."""
    try:
        fill()
    except Exception as error:
        if failure.is_final(error):
            raise
        kernel_launch.warn_once(record.op.name, failure.said(error))
        reference.into(record.op, arguments, outputs)


def compose(op: Op, arguments: Mapping[str, Any], outputs: Outputs, run: Run) -> None:
    assert op.composed is not None
    device = reference.tensors_of(arguments)[0].device.type
    with torch.no_grad(), reference.without_autocast(device):
        op.composed(run, arguments, outputs)


def filling(fill: Fill) -> Run:
    def run(name: str, **given: Any) -> Any:
        other = custom_op.record(name)
        arguments = other.signature.bind((), given)
        outputs = reference.as_tuple(other.op.outputs(**arguments))
        fill(other, arguments, outputs)
        return reference.untupled(outputs)

    return run


Called = tuple[str, tuple[str, ...], tuple[Any, ...]]
"""An op with a kernel, the names of its arguments, and these and its outputs, tensors on meta."""


def called(op: str, names: tuple[str, ...], values: Sequence[Any]) -> Iterator[Called]:
    """The calls that reach kernels, each kind once; for most ops the call itself.

    values: arguments and outputs, with meta tensors.
    """
    record = custom_op.known(op)
    if record is None or record.op.composed is None:
        yield op, names, tuple(values)
        return
    found: dict[Any, Called] = {}

    def note(other: Record, arguments: Mapping[str, Any], outputs: Outputs) -> None:
        given = (*arguments.values(), *outputs)
        kind = (other.op.name, *map(_described, given))
        found.setdefault(kind, (other.op.name, other.signature.names, given))

    arguments = dict(zip(names, values, strict=False))
    compose(record.op, arguments, values[len(names) :], filling(note))
    yield from found.values()


def _described(value: Any) -> Any:
    if not isinstance(value, torch.Tensor):
        return value
    return value.shape, value.stride(), value.dtype
