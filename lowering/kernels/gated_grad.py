"""What the gradients of the gated activations share: their arithmetic, plan and samples.

The walk is that of `gated`, over dout, gate and up and over the gradients of the last two.
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
from tile_backend.lowering.kernels.gated import ELEMENTS, flattened, load_tile, tiled
from tile_backend.lowering.kernels.launch_plan import Launch, Sample
from tile_backend.lowering.kernels.row_layout import RESIDENT_WARPS


def store_gradients(
    dout: ct.Array,
    up: ct.Array,
    dgate: ct.Array,
    dup: ct.Array,
    at: tuple[int, ...],
    activation: ct.Tile,
    slope: ct.Tile,
    OF_GATE: bool,
    OF_UP: bool,
) -> None:
    """dout * up * slope and dout * activation, each where it is wanted."""
    shape = ct.static_eval(tuple(slope.shape))
    given = load_tile(dout, at, shape)
    if OF_GATE:
        product = given * load_tile(up, at, shape) * slope
        ct.store(dgate, at, product.astype(dgate.dtype), allow_tma=False)
    if OF_UP:
        ct.store(dup, at, (given * activation).astype(dup.dtype), allow_tma=False)


def plan_gated_grad(
    function: Any,
    arguments: Mapping[str, Any],
    outputs: tuple[torch.Tensor | None, ...],
    scalars: tuple[float, ...],
    constants: tuple[int | bool, ...],
    choose: Choose,
) -> Launch | None:
    """`function(dout, gate, up, dgate, dup, *scalars, ROWS, COLUMNS, *constants, OF_GATE, OF_UP)`
    on every element. outputs: the gradients of gate and up, empty or None where not wanted.
    """
    given = {name: arguments[name] for name in ("dout", "gate", "up")}
    launch_plan.require_float(**given)
    launch_plan.require_same_dtype(gate=given["gate"], up=given["up"])
    launch_plan.require_same_shape(**given)
    launch_plan.require_features(given["gate"], "gate")
    if launch_plan.is_empty(outputs):
        return None
    wanted = [out is not None and out.numel() > 0 for out in outputs]
    into = [out for out, yes in zip(outputs, wanted, strict=True) if yes and out is not None]
    *into, dout, gate, up = flattened((*into, *given.values()))
    dgate, dup = into[0], into[-1]
    tile = choose(ElementTile(ELEMENTS, occupancy=RESIDENT_WARPS // 4))
    rows, columns, grid = tiled(dgate, tile.elements)
    args = (dout, gate, up, dgate, dup, *scalars, rows, columns, *constants, *wanted)
    return launch_plan.launch(kernel(function, **tile.hints), grid, args)


def halves(
    outputs: tuple[torch.Tensor | None, ...], arguments: Mapping[str, Any]
) -> tuple[torch.Tensor | None, ...]:
    """The gradients of gate and up as views of one tensor that has both."""
    (both,) = outputs
    if both is None:
        return None, None
    first, second = both.chunk(2, dim=-1)
    return (second, first) if arguments.get("up_first", False) else (first, second)


def packed_samples(attributes: Mapping[str, Any]) -> list[Sample]:
    """Gate and up, and their gradients, as halves of one tensor."""
    x, both = (torch.empty(4, 16, 22016, dtype=torch.bfloat16, device="meta") for _ in range(2))
    gate, up = x.chunk(2, dim=-1)
    dout = torch.empty(gate.shape, dtype=torch.bfloat16, device="meta")
    arguments = {"dout": dout, "gate": gate, "up": up, **attributes, "up_first": False}
    return [("packed", arguments, (both,))]


def gated_grad_samples(attributes: Sequence[Mapping[str, Any]]) -> list[Sample]:
    """Each set of attributes on flat tensors; the first also packed, ragged, and with one gradient
    only.
    """

    def made(shape: tuple[int, ...], dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    samples: list[Sample] = []
    for choice in attributes:
        dout, gate, up, dgate, dup = (made((64, 14336)) for _ in range(5))
        name = "_".join(str(value) for value in choice.values())
        samples.append((name, {"dout": dout, "gate": gate, "up": up, **choice}, (dgate, dup)))
    _, first, (dgate, _dup) = samples[0]
    for name, shape, dtype in (
        ("packed_ragged", (4, 16, 200), torch.bfloat16),
        ("packed_float32", (4, 16, 22016), torch.float32),
    ):
        gate, up = made(shape, dtype).chunk(2, dim=-1)
        dout, *results = (made(tuple(gate.shape), dtype) for _ in range(3))
        samples.append((name, {**first, "dout": dout, "gate": gate, "up": up}, tuple(results)))
    return [*samples, ("frozen_up", {**first, "of_up": False}, (dgate, None))]
