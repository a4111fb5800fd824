"""Tensors [..., D] as equally shaped views of rank 2 to 4 that a row kernel walks, without a copy.

Leading dimensions are ordered by stride, dropped where their size is 1, and merged where every
tensor allows it, as TensorIterator does: contiguous and transposed inputs become [rows, D], a slice
of a packed tensor [tokens, heads, D]. What is left after that are up to three leading dimensions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import torch

from tile_backend.lowering.kernels.configuration import UNSAID, Configuration, Values, around
from tile_backend.lowering.kernels.launch_plan import KernelLimit
from tile_backend.lowering.reason import ReasonKind

MAX_LEADING = 3
"""Leading dimensions map to the axes of the launch grid."""

RESIDENT_WARPS = 32
"""That a multiprocessor should hold to keep memory busy: half of what it can on sm_90."""

WARPS = (4, 8)
"""Of a block; the compiler takes no others."""
OCCUPANCIES = (None, 4, 6, 8, 16)
LARGEST_PIECE = 8192
MOST_EACH = 32
"""Elements of a piece for each thread."""
NONE_KNOWN: Mapping[int, int] = {}


@dataclasses.dataclass(frozen=True)
class RowTile(Configuration):
    """A block handles `rows` rows, each in pieces of `block` elements.

    width: features of a row. most_pieces: of a row that a kernel holds; 0 for one that holds none.
    most_rows: that its block can have.
    """

    rows: int
    block: int
    warps: int
    occupancy: int | None = None
    width: int = dataclasses.field(default=0, metadata=UNSAID, compare=False)
    most_pieces: int = dataclasses.field(default=16, metadata=UNSAID, compare=False)
    most_rows: int = dataclasses.field(default=16, metadata=UNSAID, compare=False)

    def space(self) -> Values:
        return {
            "rows": around(self.rows, 1, self.most_rows),
            "block": around(self.block, 1, LARGEST_PIECE),
            "warps": WARPS,
            "occupancy": OCCUPANCIES,
        }

    def fits(self) -> bool:
        """A piece is no longer than a row; each thread has some elements, and not too many."""
        pieces = -(-self.width // self.block)
        each = self.rows * self.block // (32 * self.warps)
        resident = self.warps * (self.occupancy or RESIDENT_WARPS // self.warps)
        return (
            self.block <= next_power_of_two(self.width)
            and pieces <= (self.most_pieces or pieces)
            and each <= MOST_EACH
            and RESIDENT_WARPS <= resident <= 2 * RESIDENT_WARPS
        )


def next_power_of_two(n: int) -> int:
    """The smallest power of two that is at least n; 1 for n < 1."""
    return 1 << max(n - 1, 0).bit_length()


def row_tile(width: int, quarters: Mapping[int, int] = NONE_KNOWN) -> RowTile:
    """About 8 elements per thread and piece, which is one 16-byte access in half precision.

    quarters: up to so many pieces of a row, so many quarters of RESIDENT_WARPS fit a
    multiprocessor without a spill, which docs/kernels.md shows. Beyond, the compiler chooses.
    """
    padded = next_power_of_two(width)
    rows, block, warps = (1, 2048, 8) if padded >= 2048 else (1024 // padded, padded, 4)
    pieces = -(-width // block)
    fitting = next((quarters[most] for most in sorted(quarters) if pieces <= most), None)
    occupancy = None if fitting is None else fitting * RESIDENT_WARPS // (4 * warps)
    return RowTile(rows, block, warps, occupancy, width)


def merged(tensors: Sequence[torch.Tensor], fewest: int = 1) -> list[torch.Tensor]:
    """Views of the tensors with equal, merged leading dimensions, at least `fewest` of them.

    tensors: equal leading sizes, any last size. The first one's strides decide the order.
    """
    sizes, strides = merged_strides(tensors)
    missing = max(fewest - len(sizes), 0)
    if len(sizes) > MAX_LEADING:
        raise KernelLimit(
            ReasonKind.STRIDE_LIMIT,
            f"strides {[list(t.stride()) for t in tensors]} of {list(tensors[0].shape)} leave"
            f" {len(sizes)} leading dimensions; the kernels walk {MAX_LEADING}",
            "call .contiguous() on the input before the op",
        )
    views = []
    for tensor, steps in zip(tensors, strides, strict=True):
        width = tensor.shape[-1]
        shape = [1] * missing + sizes + [width]
        # The stride of a dimension of size 1 is never used; this one keeps rows aligned.
        outermost = steps[0] * sizes[0] if sizes else width
        stride = [outermost] * missing + steps + [tensor.stride(-1)]
        views.append(tensor.as_strided(shape, stride, tensor.storage_offset()))
    return views


def merged_strides(tensors: Sequence[torch.Tensor]) -> tuple[list[int], list[list[int]]]:
    """Sizes of the merged leading dimensions, and each tensor's strides along them."""
    first = tensors[0]
    order = [d for d in range(first.dim() - 1) if first.shape[d] != 1]
    order.sort(key=lambda d: first.stride()[d], reverse=True)
    sizes: list[int] = []
    strides: list[list[int]] = [[] for _ in tensors]
    for d in order:
        size = first.shape[d]
        steps = [t.stride(d) for t in tensors]
        if sizes and all(s[-1] == step * size for s, step in zip(strides, steps, strict=True)):
            sizes[-1] *= size
            for s, step in zip(strides, steps, strict=True):
                s[-1] = step
            continue
        sizes.append(size)
        for s, step in zip(strides, steps, strict=True):
            s.append(step)
    return sizes, strides


def row_grid(view: torch.Tensor, rows: int) -> tuple[int, int, int]:
    """One block per `rows` rows of the innermost leading dimension, which is grid axis x."""
    *outer, inner, _width = view.shape
    blocks = [-(-inner // rows), *reversed(outer)]
    x, y, z = blocks + [1] * (3 - len(blocks))
    return x, y, z


def row_vector(name: str, vector: torch.Tensor, width: int) -> torch.Tensor:
    """A weight or bias that broadcasts to [width], as a view of that shape."""
    if vector.dim() and vector.numel() == vector.shape[-1] and vector.shape[-1] in (1, width):
        return vector.as_strided((vector.shape[-1],), (vector.stride(-1),)).expand(width)
    raise KernelLimit(
        ReasonKind.SHAPE_LIMIT,
        f"`{name}` is {list(vector.shape)}; the kernel takes one value per feature, [{width}]",
    )
