"""What is alike about calls of an op, so that one measurement speaks for all of them.

`kind_of` takes the arguments of a call: real, meta or fake tensors, dynamic sizes included. It adds
no guard: of a dynamic size it takes what it was at capture, and the range that the graph allows.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from tile_backend.lowering import signature
from tile_backend.lowering.fusion import Op
from tile_backend.lowering.node import hint
from tile_backend.lowering.tuning_entry import Kind

SHORT = {
    torch.bfloat16: "bf16",
    torch.float16: "f16",
    torch.float32: "f32",
    torch.float64: "f64",
    torch.int32: "i32",
    torch.int64: "i64",
}
UNBOUNDED = sys.maxsize
"""The most that a size can be for which a graph has no bound."""


def kind_of(op: Op, arguments: Mapping[str, Any], read: Sequence[bool] = ()) -> Kind:
    """The kind of a call.

    arguments: of the op by name; what is missing has its default.
    read: which results are computed, where that is not all of them.

    text: "rms_norm x=bf16[4096] weight=bf16[4096] rounding=once": of each tensor the dtype, the
    last dimension unless it is one of the sizes, and "!strided" where its elements have gaps
    between them; of what changes the work the value, of a float only that it is set.
    """
    filled = signature.declared(op).filled(arguments)
    given = (op.sizes or rows)(filled)
    sizes = {name: hint(size) for name, size in given.items()}
    bounds = {name: bounds_of(size) for name, size in given.items()}
    return Kind(
        " ".join(words(op, filled, frozenset(given), read)),
        sizes,
        {name: least for name, (least, _) in bounds.items()},
        {name: most for name, (_, most) in bounds.items()},
    )


def rows(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Of the first tensor: elements in front of its last dimension."""
    first = next(value for value in arguments.values() if isinstance(value, torch.Tensor))
    return {"rows": math.prod(first.shape[:-1])}


def bounds_of(size: Any) -> tuple[int, int]:
    """The least and the most that a size can be; no guard is added."""
    if not isinstance(size, torch.SymInt):
        return int(size), int(size)
    found = size.node.shape_env.bound_sympy(size.node.expr)
    least = int(found.lower) if found.lower.is_Integer else 0
    most = int(found.upper) if found.upper.is_Integer else UNBOUNDED
    return max(least, 0), min(most, UNBOUNDED)


def words(
    op: Op, arguments: Mapping[str, Any], left_out: frozenset[str], read: Sequence[bool]
) -> Iterator[str]:
    """The parts of the text."""
    declared = signature.declared(op)
    yield op.name
    for name, default in zip(declared.names, declared.defaults, strict=True):
        value = arguments[name]
        if name in op.unread:
            continue
        if isinstance(value, torch.Tensor):
            yield f"{name}={tensor(value, name not in op.unsized)}"
        elif value is not None and name not in left_out and (said := number(value, default)):
            yield f"{name}={said}"
    if read and not all(read):
        yield f"read={','.join(str(i) for i, wanted in enumerate(read) if wanted)}"


def number(value: Any, default: Any) -> str:
    """An argument that is no tensor; "" where it does not change the work."""
    if isinstance(value, str):
        return value or "''"
    if isinstance(value, torch.dtype):
        return dtype_of(value)
    if isinstance(value, bool | int):
        return "" if value == default else str(value).lower()
    if default is signature.REQUIRED or (isinstance(value, float) and value == default):
        return ""
    return "set"  # a float, or a number that a graph does not know: asking it would add a guard


def tensor(value: torch.Tensor, sized: bool) -> str:
    """As "bf16[4096]", "bf16" for a tensor without features, "bf16[128]!strided"."""
    features = f"[{hint(value.shape[-1])}]" if sized and value.dim() else ""
    return f"{dtype_of(value.dtype)}{features}{'' if is_dense(value) else '!strided'}"


def dtype_of(dtype: torch.dtype) -> str:
    return SHORT.get(dtype, str(dtype).removeprefix("torch."))


def is_dense(value: torch.Tensor) -> bool:
    """Whether its elements fill a piece of memory, in whatever order of dimensions."""
    expected = 1
    dims = ((hint(s), hint(n)) for n, s in zip(value.shape, value.stride(), strict=True))
    for stride, size in sorted(dims):
        if size == 1:
            continue
        if stride != expected:
            return False
        expected *= size
    return True
