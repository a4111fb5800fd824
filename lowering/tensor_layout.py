"""How a tensor lies in memory, with sizes that may be symbols of a dynamic graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import sympy
import torch

from tile_backend.lowering.node import Size, shape, size, strides

Trial = Mapping[sympy.Symbol, int]
"""A size for each symbol."""


class Layout(NamedTuple):
    """`offset`, in elements, is that of the first element in its storage."""

    shape: tuple[Size, ...]
    stride: tuple[Size, ...]
    offset: Size
    dtype: torch.dtype

    @classmethod
    def of(cls, tensor: torch.Tensor) -> Layout:
        """Of a fake tensor, or of any other."""
        return cls(shape(tensor), strides(tensor), size(tensor.storage_offset()), tensor.dtype)

    @property
    def dimensions(self) -> tuple[Size, ...]:
        """All the numbers in it."""
        return *self.shape, *self.stride, self.offset

    @property
    def symbols(self) -> set[sympy.Symbol]:
        """What its numbers depend on."""
        return {s for d in self.dimensions if not isinstance(d, int) for s in d.free_symbols}

    def sizes(self, trial: Trial) -> list[int]:
        """`dimensions` as numbers. trial: has every symbol."""
        values = {symbol: sympy.Integer(n) for symbol, n in trial.items()}
        return [d if isinstance(d, int) else int(d.xreplace(values)) for d in self.dimensions]

    def on_meta(self, trial: Trial) -> torch.Tensor:
        """A tensor without data that lies like this at those sizes."""
        *numbers, offset = self.sizes(trial)
        shape, stride = numbers[: len(self.shape)], numbers[len(self.shape) :]
        span = sum(max(n - 1, 0) * s for n, s in zip(shape, stride, strict=True)) + 1
        storage = torch.empty(offset + span, dtype=self.dtype, device="meta")
        return storage.as_strided(shape, stride, offset)
