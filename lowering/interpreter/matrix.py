"""Matrix products: sums in the accumulator's precision, one matrix after the other.

Operands below float32 are widened, which is exact; float32 products are summed in float32, in the
order of the CPU's library, not of a tensor core. `torch.bmm` might choose its order by the number
of matrices; one call per lane cannot.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from tile_backend.lowering.interpreter import undetermined
from tile_backend.lowering.interpreter.elements import Element
from tile_backend.lowering.interpreter.frame import Frame
from tile_backend.lowering.interpreter.program import Op, Value
from tile_backend.lowering.interpreter.registry import runs


@runs("tile_mma")
def tile_mma(frame: Frame, op: Op) -> None:
    """x @ y + acc, with any batch axes in front."""
    x, y, acc = (frame.get(op[name]) for name in ("x", "y", "acc"))
    wide = _wide(op["x"].element)
    frame.put(op.result, _product(frame, op, x.to(wide), y.to(wide), acc))


@runs("tile_mma_scaled")
def tile_mma_scaled(frame: Frame, op: Op) -> None:
    """Each block of K elements of x and y is multiplied by its scale first."""
    x, y, acc = (frame.get(op[name]) for name in ("x", "y", "acc"))
    x_scale, y_scale = frame.get(op["x_scale"]), frame.get(op["y_scale"])
    k = x.shape[-1]
    x = x * x_scale.repeat_interleave(k // x_scale.shape[-1], -1)
    y = y * y_scale.repeat_interleave(k // y_scale.shape[-2], -2)
    frame.put(op.result, _product(frame, op, x, y, acc))


def _wide(element: Element) -> torch.dtype:
    """Sums of 8-bit integers are exact in float64."""
    return torch.float64 if element.is_integer or element.bits == 64 else torch.float32


def _product(
    frame: Frame, op: Op, x: torch.Tensor, y: torch.Tensor, acc: torch.Tensor
) -> torch.Tensor:
    varies = x.dim() > op["x"].rank or y.dim() > op["y"].rank
    if not varies:
        total = _each(x, y)
    else:
        x, y = _with_lanes(frame, op["x"], x), _with_lanes(frame, op["y"], y)
        total = torch.stack([_each(one, other) for one, other in zip(x, y, strict=True)])
    if total.dtype is torch.float32 and acc.dtype is torch.float16:
        return (acc.float() + total).to(acc.dtype)
    return acc + total.to(acc.dtype)


def _with_lanes(frame: Frame, value: Value, tile: torch.Tensor) -> torch.Tensor:
    return tile if tile.dim() > value.rank else tile.expand(frame.lanes, *tile.shape)


def _each(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """x @ y, matrix by matrix."""
    if x.dim() == 2:
        return torch.mm(x, y)
    return torch.stack([_each(one, other) for one, other in zip(x, y, strict=True)])


@undetermined.spreads("tile_mma", "tile_mma_scaled")
def _rows_and_columns(frame: Frame, op: Op) -> Sequence[torch.Tensor]:
    """An undetermined operand reaches its whole row or column of the result."""

    def any_along(names: Sequence[str], axis: int) -> torch.Tensor:
        masks = [undetermined.mask_of(frame, op[n]).any(axis, keepdim=True) for n in names]
        return torch.stack(torch.broadcast_tensors(*masks)).any(0)

    scaled = op.opcode == "tile_mma_scaled"
    rows = any_along(("x", "x_scale") if scaled else ("x",), -1)
    columns = any_along(("y", "y_scale") if scaled else ("y",), -2)
    return [rows | columns | undetermined.mask_of(frame, op["acc"])]
