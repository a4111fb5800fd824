"""Running an op's reference: with autocast off, and with results laid out as the op promises.

The reference is the specification, so nothing around the call may change what it computes: an op
called under autocast gets the dtypes of its arguments, not autocast's. `Op.outputs` is the promise
about dtype and strides that Inductor plans with; `promised` makes a reference's results keep it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from tile_backend.lowering.fusion import Op


def without_autocast(device_type: str) -> contextlib.AbstractContextManager[Any]:
    if not torch.amp.is_autocast_available(device_type):
        return contextlib.nullcontext()
    return torch.autocast(device_type, enabled=False)


def tensors_of(arguments: Mapping[str, Any]) -> list[torch.Tensor]:
    return [value for value in arguments.values() if isinstance(value, torch.Tensor)]


def as_tuple(results: Any) -> tuple[torch.Tensor, ...]:
    return tuple(results) if isinstance(results, (tuple, list)) else (results,)


def untupled(results: tuple[torch.Tensor, ...]) -> Any:
    return results[0] if len(results) == 1 else results


def run(op: Op, arguments: Mapping[str, Any]) -> tuple[torch.Tensor, ...]:
    """The reference's results, as they come: any strides, and perhaps an argument itself."""
    with without_autocast(tensors_of(arguments)[0].device.type):
        return as_tuple(op.reference(**arguments))


def into(op: Op, arguments: Mapping[str, Any], outputs: Sequence[torch.Tensor | None]) -> None:
    """Compute the reference and copy it into `outputs`; None stands for a result nobody reads."""
    with torch.no_grad():
        results = run(op, arguments)
        agree(op, results, outputs)
        for output, result in zip(outputs, results, strict=True):
            if output is not None:
                output.copy_(result)


def promised(
    op: Op, arguments: Mapping[str, Any], buffers: Sequence[torch.Tensor]
) -> tuple[torch.Tensor, ...]:
    """The reference's results as new tensors, laid out as `buffers`, which `Op.outputs` made."""
    results = run(op, arguments)
    agree(op, results, buffers)
    taken = tensors_of(arguments)
    final = []
    for result, buffer in zip(results, buffers, strict=True):
        fits = result.stride() == buffer.stride() and not _aliases(result, taken)
        final.append(result if fits else buffer.copy_(result))
        taken.append(final[-1])
    return tuple(final)


def agree(op: Op, results: Sequence[torch.Tensor], outputs: Sequence[torch.Tensor | None]) -> None:
    """Raise RuntimeError unless shapes and dtypes of the reference are those of `Op.outputs`."""
    for index, (result, output) in enumerate(zip(results, outputs, strict=True)):
        if output is None or (result.shape == output.shape and result.dtype == output.dtype):
            continue
        raise RuntimeError(
            f"torch.ops.tilegym.{op.name}: result {index} of the reference is "
            f"{_describe(result)}, but the op promises {_describe(output)}; the arguments' sizes or"
            f" dtypes do not fit together"
        )


def _describe(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"


def _aliases(result: torch.Tensor, others: Iterable[torch.Tensor]) -> bool:
    storage = result.untyped_storage().data_ptr()
    return any(storage == other.untyped_storage().data_ptr() for other in others)
