"""What the gated activations share: the walk over gate and up, their plan and their samples.

Element by element over views of equal shape. Where memory allows it they are one dimension; the
halves of a packed projection stay [tokens, D], and rows and column tiles share a grid axis.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cuda.tile as ct
import torch

from tile_backend.lowering.kernels import launch_plan
from tile_backend.lowering.kernels.compiled import kernel
from tile_backend.lowering.kernels.configuration import Choose
from tile_backend.lowering.kernels.element_tile import ElementTile
from tile_backend.lowering.kernels.launch_plan import Launch, Sample
from tile_backend.lowering.kernels.row_layout import merged, next_power_of_two

ELEMENTS = 1024
"""Elements per block of 4 warps: 8 per thread, one 16-byte access in half precision."""


def tiled(view: torch.Tensor, elements: int) -> tuple[int, int, tuple[int, int, int]]:
    """Rows and columns of a block of so many elements, and the grid, for a view of `flattened`."""
    columns = min(next_power_of_two(view.shape[-1]), elements)
    if view.dim() == 1:
        columns = elements
    rows = elements // columns
    tiles = -(-view.shape[-1] // columns)
    *outer, inner = (1, 1, 1, *view.shape[:-1])[-3:]
    return rows, columns, (-(-inner // rows) * tiles, outer[1], outer[0])


ACTIVATION, ONCE, EVERY_OP = range(3)
MODES = {"activation": ACTIVATION, "once": ONCE, "every_op": EVERY_OP}


def tile_index(x: ct.Array, COLUMNS: int) -> tuple[int, ...]:
    """This block's tile: bid(0) counts tiles of COLUMNS features first, then rows."""
    tiles = ct.cdiv(x.shape[x.ndim - 1], COLUMNS)
    at: tuple[int, ...] = (ct.bid(0),)
    if x.ndim > 1:
        at = (ct.bid(0) // tiles, ct.bid(0) % tiles)
    if x.ndim > 2:
        at = (ct.bid(1), *at)
    if x.ndim > 3:
        at = (ct.bid(2), *at)
    return at


def tile_shape(x: ct.Array, ROWS: int, COLUMNS: int) -> tuple[int, ...]:
    """(1, ..., ROWS, COLUMNS) with as many entries as x has dimensions."""
    shape: tuple[int, ...] = ct.static_eval((1, 1, ROWS, COLUMNS)[-x.ndim :])
    return shape


def load_tile(x: ct.Array, at: tuple[int, ...], shape: tuple[int, ...]) -> ct.Tile:
    """One tile as float32; elements outside x are never stored."""
    tile = ct.load(x, at, shape, padding_mode=ct.PaddingMode.ZERO, allow_tma=False)
    return tile.astype(ct.float32)


def flattened(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Views of rank 1 where the tensors' elements lie one after the other, else of rank 2 to 4."""
    columns = [t.unsqueeze(-1) for t in tensors]
    if len({t.stride() for t in tensors}) == 1:
        views = merged(columns)
        if all(v.dim() == 2 and v.stride(0) == 1 for v in views):
            return [v.squeeze(-1) for v in views]
    return merged(tensors)


def plan_gated(
    function: Any,
    arguments: Mapping[str, Any],
    outputs: tuple[torch.Tensor | None, ...],
    scalars: tuple[float, ...],
    constants: tuple[int | bool, ...],
    choose: Choose,
) -> Launch | None:
    """`function(gate, up, out, *scalars, ROWS, COLUMNS, *constants)` on every element."""
    gate, up = arguments["gate"], arguments["up"]
    (out,) = outputs
    launch_plan.require_float(gate=gate)
    launch_plan.require_same_dtype(gate=gate, up=up)
    launch_plan.require_same_shape(gate=gate, up=up)
    launch_plan.require_features(gate, "gate")
    if out is None or launch_plan.is_empty(outputs):
        return None
    out, gate, up = flattened((out, gate, up))
    tile = choose(ElementTile(ELEMENTS))
    rows, columns, grid = tiled(out, tile.elements)
    args = (gate, up, out, *scalars, rows, columns, *constants)
    return launch_plan.launch(kernel(function, **tile.hints), grid, args)


def gated_samples(attributes: Sequence[Mapping[str, Any]]) -> list[Sample]:
    """Each set of attributes on flat tensors; the first also packed, ragged and in float32."""
    samples: list[Sample] = []
    for choice in attributes:
        name = "_".join(str(value) for value in choice.values())
        gate, up = (torch.empty(64, 14336, dtype=torch.bfloat16, device="meta") for _ in range(2))
        samples.append((name, {"gate": gate, "up": up, **choice}, (torch.empty_like(gate),)))
    first = attributes[0]
    for name, shape, dtype in (
        ("packed", (4, 16, 22016), torch.bfloat16),
        ("packed_ragged", (4, 16, 200), torch.bfloat16),
        ("packed_float32", (4, 16, 22016), torch.float32),
    ):
        gate, up = torch.empty(shape, dtype=dtype, device="meta").chunk(2, dim=-1)
        out = torch.empty(gate.shape, dtype=dtype, device="meta")
        samples.append((name, {"gate": gate, "up": up, **first}, (out,)))
    return samples
