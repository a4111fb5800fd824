"""The memory of a launch: the storages of its array arguments, by address.

Pointers are real byte addresses in int64 tensors, so arithmetic on them, alignment and lists of
arrays need no rules of their own. A `Place` is where one access goes: a strided box of one storage,
or a list of elements. What is neither in nor between an argument's elements is no place.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch


@dataclasses.dataclass(frozen=True)
class ArrayArgument:
    """An array parameter, or an item of a list of arrays. address: of element 0, in bytes."""

    name: str
    address: int
    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    itemsize: int

    @classmethod
    def of(cls, name: str, tensor: torch.Tensor) -> ArrayArgument:
        address = tensor.data_ptr()
        return cls(
            name, address, tuple(tensor.shape), tuple(tensor.stride()), tensor.element_size()
        )

    @property
    def end(self) -> int:
        """One byte after the last element; `address` where there is none."""
        if 0 in self.sizes:
            return self.address
        last = sum((n - 1) * s for n, s in zip(self.sizes, self.strides, strict=True))
        return self.address + (last + 1) * self.itemsize

    def index(self, address: int) -> tuple[int, ...] | None:
        """The index of the element there, or None: outside, in a gap, or not at its start."""
        rest, remainder = divmod(address - self.address, self.itemsize)
        index = [0] * len(self.sizes)
        for axis in sorted(range(len(self.sizes)), key=lambda d: -self.strides[d]):
            if self.strides[axis]:
                index[axis] = min(rest // self.strides[axis], self.sizes[axis] - 1)
                rest -= index[axis] * self.strides[axis]
        return tuple(index) if rest == 0 and not remainder and 0 not in self.sizes else None

    def contains(self, addresses: torch.Tensor) -> torch.Tensor:
        """Which addresses, int64 of any shape, are starts of elements; see `index`."""
        if 0 in self.sizes:
            return torch.zeros_like(addresses, dtype=torch.bool)
        inside = (addresses >= self.address) & (addresses < self.end)
        rest = torch.div(addresses - self.address, self.itemsize, rounding_mode="floor")
        inside &= (addresses - self.address) == rest * self.itemsize
        for axis in sorted(range(len(self.sizes)), key=lambda d: -self.strides[d]):
            if self.strides[axis]:
                at = torch.div(rest, self.strides[axis], rounding_mode="floor")
                rest = rest - at.clamp_max(self.sizes[axis] - 1) * self.strides[axis]
        return inside & (rest == 0)


class Segment:
    """One storage. tracked: a kernel writes to an array in it, so accesses are remembered."""

    def __init__(self, storage: torch.UntypedStorage) -> None:
        self.storage = storage
        self.address, self.size = storage.data_ptr(), storage.nbytes()
        self.arrays: list[ArrayArgument] = []
        self.tracked = False
        self._typed: dict[torch.dtype, torch.Tensor] = {}
        self._shadows: dict[tuple[str, int], torch.Tensor] = {}

    def typed(self, dtype: torch.dtype) -> torch.Tensor:
        """The whole storage as a flat tensor."""
        if dtype not in self._typed:
            self._typed[dtype] = torch.empty(0, dtype=dtype).set_(self.storage)
        return self._typed[dtype]

    def shadow(self, kind: str, itemsize: int) -> torch.Tensor:
        """An int32 per element of that size, -1 at first: see `races`."""
        key = kind, itemsize
        if key not in self._shadows:
            self._shadows[key] = torch.full((self.size // itemsize,), -1, dtype=torch.int32)
        return self._shadows[key]

    def array_at(self, address: int) -> tuple[ArrayArgument, tuple[int, ...]] | None:
        """The array argument with an element there, and its index."""
        for array in self.arrays:
            index = array.index(address) if array.address <= address < array.end else None
            if index is not None:
                return array, index
        return None


@dataclasses.dataclass(frozen=True)
class Place:
    """Elements of one segment. lengths and strides with an offset, or else `elements`, [n].

    who: number of the accessing block: an int, or int32 [n] beside `elements`.
    exempt: whether it is ordered after the others (see `races`): a bool, or bool [n].
    """

    segment: Segment
    itemsize: int
    who: int | torch.Tensor
    exempt: bool | torch.Tensor
    offset: int = 0
    lengths: Sequence[int] = ()
    strides: Sequence[int] = ()
    elements: torch.Tensor | None = None

    def read(self, flat: torch.Tensor) -> torch.Tensor:
        """The elements of a flat tensor over the segment; a box is a view, not a copy."""
        if self.elements is not None:
            return flat[self.elements]
        return flat.as_strided(self.lengths, self.strides, self.offset)

    def write(self, flat: torch.Tensor, values: torch.Tensor | int) -> None:
        """Assign them."""
        if self.elements is not None:
            flat[self.elements] = values
        elif isinstance(values, int):
            self.read(flat).fill_(values)
        else:
            self.read(flat).copy_(values)

    def address(self, position: tuple[int, ...]) -> int:
        """Of one element of what `read` returns."""
        if self.elements is not None:
            element = int(self.elements[position])
        else:
            element = self.offset + sum(p * s for p, s in zip(position, self.strides, strict=True))
        return self.segment.address + element * self.itemsize

    def describe(self, position: tuple[int, ...]) -> str:
        """In words, one element of what `read` returns: element [3, 5] of `out`."""
        found = self.segment.array_at(self.address(position))
        if found is None:
            return "an element outside every array argument"
        array, index = found
        return f"element {list(index)} of `{array.name}`"


class Memory:
    """All segments of a launch."""

    def __init__(self) -> None:
        self.segments: list[Segment] = []

    def add(self, name: str, tensor: torch.Tensor) -> None:
        """Make an array argument (or an item of a list) addressable."""
        storage = tensor.untyped_storage()
        segment = next((s for s in self.segments if s.address == storage.data_ptr()), None)
        if segment is None:
            segment = Segment(storage)
            self.segments.append(segment)
        segment.arrays.append(ArrayArgument.of(name, tensor))

    def segment(self, lowest: int, highest: int) -> Segment | None:
        """The segment that has both addresses."""
        for segment in self.segments:
            if segment.address <= lowest and highest < segment.address + segment.size:
                return segment
        return None
