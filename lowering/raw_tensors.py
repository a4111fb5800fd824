"""What a launch does with tensors, done in C++ and past the dispatcher.

`same_kind` asks Dynamo's own guard on tensors, in a quarter of the time that reading shapes and
strides in Python takes; `view` is what Inductor's generated code uses, at half the price of
`as_strided`; `borrowed` is how Inductor's CUDA graphs refer to memory that they do not keep alive.
They are private to torch; the first two have a plain substitute where a version lacks them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

_private: Any = getattr(getattr(torch._C, "_dynamo", None), "guards", None)


def same_kind(tensors: Sequence[torch.Tensor]) -> Callable[..., bool]:
    """A check that as many values are tensors of the same shapes, strides, dtypes and devices.

    Stricter than that: a Parameter in place of a Tensor, or a tensor under autocast, is not the
    same. `tensors` are not kept.
    """
    twice = len({id(tensor) for tensor in tensors}) < len(tensors)  # which the guard refuses
    if twice or not hasattr(_private, "TensorGuards"):
        return same_kind_in_python(tensors)
    made = _private.TensorGuards(*tensors, dynamic_dims_sizes=None, dynamic_dims_strides=None)
    check: Callable[..., bool] = made.check
    return check


def same_kind_in_python(tensors: Sequence[torch.Tensor]) -> Callable[..., bool]:
    """The same for a torch without that guard."""
    expected = [_kind(tensor) for tensor in tensors]
    return lambda *values: expected == [_kind(value) for value in values]


def _kind(value: Any) -> tuple[Any, ...] | None:
    if not isinstance(value, torch.Tensor):
        return None
    return type(value), value.shape, value.stride(), value.dtype, value.device


def borrowed(tensor: torch.Tensor) -> torch.Tensor:
    """The same memory, dtype, shape and strides, without a hold on the memory.

    To be passed on only while something else keeps the memory.
    """
    span = 1 + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
    storage = torch._C._construct_storage_from_data_pointer(
        tensor.data_ptr(), tensor.device, span * tensor.element_size()
    )
    empty = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
    return empty.set_(storage, 0, tensor.shape, tensor.stride())


def view_in_python(
    tensor: torch.Tensor, shape: tuple[int, ...], stride: tuple[int, ...], offset: int
) -> torch.Tensor:
    """See `view`."""
    return tensor.as_strided(shape, stride, tensor.storage_offset() + offset)


view: Callable[[torch.Tensor, tuple[int, ...], tuple[int, ...], int], torch.Tensor] = getattr(
    _private, "_reinterpret_tensor", view_in_python
)
"""The same storage under another shape and strides, `offset` elements on; outside autograd.

Shape and strides are plain tuples: torch 2.15 refuses a torch.Size.
"""
