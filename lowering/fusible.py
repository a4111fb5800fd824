"""What Inductor makes of a node: part of the loop of its neighbours, a view, or a kernel.

PyTorch is asked: the call is run on meta tensors, and every operator that it becomes is looked at.
Matrix products, convolutions, attention, random numbers, writes and higher-order ops are kernels of
their own. So are embeddings: what they read is far larger than what they give.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import torch
from torch import fx
from torch.utils._python_dispatch import TorchDispatchMode

from tile_backend.lowering import aten_kind, meta
from tile_backend.lowering.aten_kind import Kind
from tile_backend.lowering.effects import is_barrier
from tile_backend.lowering.meta import without_fakes
from tile_backend.lowering.node import target_key, value

_known: dict[Hashable, Kind] = {}


def kind_of(node: fx.Node) -> Kind:
    """Of all that a call becomes. Remembered by the form of the call: sizes do not matter."""
    if node.op not in ("call_function", "call_method") or is_barrier(node):
        return "opaque"
    if isinstance(node.target, torch._ops.HigherOrderOperator):
        return "opaque"
    key = (node.op, target_key(node), str(fx.node.map_arg((node.args, node.kwargs), form)))
    if key not in _known:
        _known[key] = found(node)
    return _known[key]


def form(node: fx.Node) -> Any:
    """Stands for an argument in the key."""
    known = value(node)
    return f"{known.dtype}.{known.dim()}" if isinstance(known, torch.Tensor) else type(known)


def found(node: fx.Node) -> Kind:
    try:
        with without_fakes(), torch.no_grad(), Operators() as seen:
            meta.call(node)
    except Exception:  # noqa: BLE001 - what does not run alone is a kernel of its own
        return "opaque"
    return "opaque" if "opaque" in seen.kinds else "loop" if "loop" in seen.kinds else "view"


class Operators(TorchDispatchMode):
    """Notes what kinds of operators are called."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.kinds: set[Kind] = set()

    def __torch_dispatch__(
        self, overload: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.kinds.add(aten_kind.kind_of(overload))
        return overload(*args, **(kwargs or {}))
