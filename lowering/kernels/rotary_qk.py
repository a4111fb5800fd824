"""Rotary position embedding of q and k in one launch: first the head tiles of q, then of k."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cuda.tile as ct
import torch

from tile_backend.lowering.kernels import launch_plan, rotary
from tile_backend.lowering.kernels.compiled import kernel
from tile_backend.lowering.kernels.configuration import Choose, as_planned
from tile_backend.lowering.kernels.launch_plan import KernelLimit, Launch, Sample
from tile_backend.lowering.kernels.rotary_plan import four_axes, plan_rotary
from tile_backend.lowering.kernels.rotation import rotate
from tile_backend.lowering.kernels.row_layout import next_power_of_two
from tile_backend.lowering.reason import ReasonKind


def rotary_qk(
    q: ct.Array,
    k: ct.Array,
    cos: ct.Array,
    sin: ct.Array,
    q_out: ct.Array,
    k_out: ct.Array,
    Q_TILES: ct.Constant[int],
    K_HEADS: ct.Constant[int],
    HEADS: ct.Constant[int],
    TILE_HEADS: ct.Constant[int],
    TABLE_HEADS: ct.Constant[int],
    POSITIONS: ct.Constant[int],
    PAIRS: ct.Constant[int],
    WIDTH: ct.Constant[int],
    LAYOUT: ct.Constant[int],
    FULL: ct.Constant[bool],
    CONJUGATE: ct.Constant[bool],
    EVERY_OP: ct.Constant[bool],
    BACK: ct.Constant[bool],
) -> None:
    """Grid (position tiles, head tiles of q then of k, batch); K_HEADS is k's tile of heads."""
    batch, tile, position = ct.bid(2), ct.bid(1), ct.bid(0)
    if tile < Q_TILES:
        rotate(
            *(q, cos, sin, q_out, batch, tile, position),
            *(HEADS, TILE_HEADS, TABLE_HEADS, POSITIONS),
            *(PAIRS, WIDTH, LAYOUT, FULL, CONJUGATE, EVERY_OP, BACK),
        )
    else:
        rotate(
            *(k, cos, sin, k_out, batch, tile - Q_TILES, position),
            *(HEADS, K_HEADS, TABLE_HEADS, POSITIONS),
            *(PAIRS, WIDTH, LAYOUT, FULL, CONJUGATE, EVERY_OP, BACK),
        )


def check_pair(q: torch.Tensor, k: torch.Tensor, heads: int, table_heads: int) -> None:
    """q and k differ in their number of heads only, and one table serves all heads."""
    differing = [axis for axis in range(4) if q.shape[axis] != k.shape[axis]]
    if differing not in ([], [heads]):
        raise KernelLimit(
            ReasonKind.SHAPE_LIMIT,
            f"`q` {list(q.shape)} and `k` {list(k.shape)} differ in more than their heads",
        )
    if table_heads != 1:
        raise KernelLimit(
            ReasonKind.SHAPE_LIMIT, "the tables differ from head to head", "rotate q and k apart"
        )


def plan(
    arguments: Mapping[str, Any],
    outputs: tuple[torch.Tensor | None, ...],
    arch: str,
    choose: Choose = as_planned,
) -> Launch | None:
    """See launch_plan. q and k [..., D] of rank 1 to 4, any strides; outputs: (like q, like k)."""
    return plan_turn(arguments, outputs, choose)


def plan_turn(
    arguments: Mapping[str, Any],
    outputs: tuple[torch.Tensor | None, ...],
    choose: Choose,
    back: bool = False,
) -> Launch | None:
    """back: from `dq` and `dk`, the gradients of results, to those of the arguments."""
    names = ("dq", "dk") if back else ("q", "k")
    q_out, k_out = outputs
    if q_out is None or k_out is None:
        name, out = (names[0], q_out) if k_out is None else (names[1], k_out)
        alone = "dout" if back else "x"
        return rotary.plan_turn({**arguments, alone: arguments[name]}, (out,), choose, back)
    if launch_plan.is_empty(outputs):
        return None
    q, k = (four_axes(name, arguments[name]) for name in names)
    q_out, k_out = four_axes(names[0], q_out), four_axes(names[1], k_out)
    shape = plan_rotary(arguments, choose, **dict(zip(names, (q, k), strict=True)))
    check_pair(q, k, shape.heads, shape.table_heads)
    positions, q_tiles, batch = shape.grid(q)
    k_heads = min(next_power_of_two(k.shape[shape.heads]), shape.tile_heads)
    k_tiles = -(-k.shape[shape.heads] // k_heads)
    sizes = (q_tiles, k_heads, shape.heads, shape.tile_heads, 1, shape.positions)
    return launch_plan.launch(
        kernel(rotary_qk, **shape.hints),
        (positions, q_tiles + k_tiles, batch),
        (q, k, *shape.tables, q_out, k_out, *sizes, *shape.flags, back),
    )


def samples() -> list[Sample]:
    """Those of rotary, with 8 heads in q and 2 in k, and the [B, S, H, D] order."""
    samples: list[Sample] = []
    for name, arguments, (out,) in rotary.samples():
        assert out is not None, "a sample of rotary has an output"
        q = arguments["x"]
        pair: Mapping[str, Any] = {
            "q": q,
            "k": q[:, :2],
            **{n: v for n, v in arguments.items() if n != "x"},
        }
        k_out = torch.empty_like(pair["k"], dtype=out.dtype)
        samples.append((name, pair, (out, k_out)))
    _, pair, outputs = samples[0]
    swapped = {n: v.transpose(1, 2) if isinstance(v, torch.Tensor) else v for n, v in pair.items()}
    swapped_outputs = tuple(out.transpose(1, 2) for out in outputs if out is not None)
    return [*samples, ("heads_last", swapped, swapped_outputs)]
