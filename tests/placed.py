"""A tensor on another device with its strides, its offset and the gaps between its elements."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch


def on(tensor: torch.Tensor, device: str) -> torch.Tensor:
    """A copy of the whole storage, seen in the same way. `Tensor.to` would close the gaps.

    What lies at a multiple of 16 bytes does so again: storages begin at one.
    """
    storage = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())
    moved = storage.to(device, copy=True).untyped_storage()
    made = torch.empty(0, dtype=tensor.dtype, device=device)
    return made.set_(moved, tensor.storage_offset(), tensor.shape, tensor.stride())


def all_on(values: Mapping[str, Any], device: str) -> dict[str, Any]:
    """An op's arguments with their tensors on the device."""
    return {n: on(v, device) if isinstance(v, torch.Tensor) else v for n, v in values.items()}
