"""Do the sizes of an op's arguments fit together? Asked of the reference itself, without data.

The reference runs on meta tensors of the same sizes and must give what `Op.outputs` promises. Under
dynamic shapes this is what makes two equal sizes one symbol: without it nothing would guard that x
and residual have the same number of rows, and the kernel would read out of bounds.
One set of sizes is examined once per process, or once per ShapeEnv where sizes are symbols.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from tile_backend.lowering import reference
from tile_backend.lowering.fusion import Op
from tile_backend.lowering.meta import without_modes

_static: set[tuple[Any, ...]] = set()
_symbolic: weakref.WeakKeyDictionary[ShapeEnv, set[tuple[Any, ...]]] = weakref.WeakKeyDictionary()


def check(op: Op, arguments: Mapping[str, Any], outputs: Sequence[torch.Tensor] = ()) -> None:
    """Raise RuntimeError unless the reference gives the shapes of `outputs`.

    outputs: as `Op.outputs` makes them, if they are there already.

    Sizes that are symbols are guarded instead, in their ShapeEnv.
    """
    environment, key = _key(op, arguments)
    seen = _static if environment is None else _symbolic.setdefault(environment, set())
    if key in seen:
        return
    # Nothing to guard where no size is a symbol, and plain meta tensors are five times as fast.
    with without_modes() if environment is None else contextlib.nullcontext():
        results = on_meta(op, arguments)
    outputs = outputs or reference.as_tuple(op.outputs(**arguments))
    for index, (result, output) in enumerate(zip(results, outputs, strict=True)):
        fits = result.dim() == output.dim() and result.dtype == output.dtype
        if not fits:
            reference.agree(op, results, outputs)
        for ours, theirs in zip(output.shape, result.shape, strict=True):
            torch._check(ours == theirs, lambda index=index: _refusal(op, arguments, index))
    seen.add(key)


def on_meta(op: Op, arguments: Mapping[str, Any]) -> tuple[torch.Tensor, ...]:
    """The reference on contiguous meta tensors of the same sizes: shapes and dtypes, no data.

    On the meta device and not on the fake one, since some ops pick their kernel by asking the
    device, which need not exist in this process.
    """
    shapes = {
        name: torch.empty(value.shape, dtype=value.dtype, device="meta")
        if isinstance(value, torch.Tensor)
        else value
        for name, value in arguments.items()
    }
    with torch.no_grad():
        return reference.run(op, shapes)


def _refusal(op: Op, arguments: Mapping[str, Any], index: int) -> str:
    shapes = ", ".join(
        f"{name} {list(value.shape)}"
        for name, value in arguments.items()
        if isinstance(value, torch.Tensor)
    )
    return (
        f"torch.ops.tilegym.{op.name}: the sizes do not fit together: {shapes}"
        f" (result {index} would not have the promised shape)"
    )


def _key(op: Op, arguments: Mapping[str, Any]) -> tuple[ShapeEnv | None, tuple[Any, ...]]:
    environment = None
    parts: list[Any] = [op]
    for value in arguments.values():
        if not isinstance(value, torch.Tensor):
            parts.append(value)
            continue
        sizes: list[Any] = [value.dtype]
        for size in value.shape:
            if isinstance(size, torch.SymInt):
                environment = size.node.shape_env
                sizes.append(size.node.expr)
            else:
                sizes.append(size)
        parts.append(tuple(sizes))
    return environment, tuple(parts)
