"""The gradients of attention's k and v: per tile of keys, one pass over the queries that see it.

The queries of all heads that share the keys add up in one block: no atomics, and the same bits in
every run. Scores are transposed, [keys, queries], so that each product has them on its left.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cuda.tile as ct
import torch

from tile_backend.lowering.kernels import launch_plan
from tile_backend.lowering.kernels.attention_grad_plan import grad_inputs, grad_samples
from tile_backend.lowering.kernels.attention_grad_reach import (
    facts_of_keys,
    hide_keys,
    mask_of,
    tiles_that_see,
)
from tile_backend.lowering.kernels.attention_grad_tiles import grad_kv_tiles
from tile_backend.lowering.kernels.attention_grad_weights import (
    log_sums,
    per_query,
    slopes_of,
    weights_and_bend,
)
from tile_backend.lowering.kernels.attention_loop import load_values
from tile_backend.lowering.kernels.attention_reach import (
    first_position,
    numbers,
    queries_that_see,
    within,
)
from tile_backend.lowering.kernels.attention_scores import product
from tile_backend.lowering.kernels.compiled import kernel
from tile_backend.lowering.kernels.configuration import Choose, as_planned
from tile_backend.lowering.kernels.launch_plan import Launch, Sample


def attention_grad_kv(
    dout: ct.Array,
    q: ct.Array,
    k: ct.Array,
    v: ct.Array,
    mask: ct.Array,
    padding: ct.Array,
    segments: ct.Array,
    offset: ct.Array,
    lse: ct.Array,
    delta: ct.Array,
    dk: ct.Array,
    dv: ct.Array,
    scale: float,
    cap: float,
    grad_scale: float,
    start: int,
    window: int,
    chunk: int,
    GROUP: ct.Constant[int],
    ROWS: ct.Constant[int],
    COLS: ct.Constant[int],
    WIDTH: ct.Constant[int],
    VALUE_WIDTH: ct.Constant[int],
    RULES: ct.Constant[int],
    MASK: ct.Constant[int],
    MASK_ROWS: ct.Constant[int],
    CAPPED: ct.Constant[bool],
    UNIT: ct.Constant[int],
    LATENCY: ct.Constant[int],
    OF_KEYS: ct.Constant[bool],
    OF_VALUES: ct.Constant[bool],
) -> None:
    """Grid (key tiles, key heads, batch). What is not there (mask, padding, ...) is any array.

    OF_KEYS, OF_VALUES: whether dk and dv are wanted. Longer than 40 lines because a kernel passes
    each of its arrays and numbers to whatever function is cut out of it.
    """
    tile = ct.bid(0)
    kv_head = ct.bid(1)
    batch = ct.bid(2)
    count = q.shape[2]
    keys = k.shape[2]
    column = numbers(tile, COLS, keys)[:, None]
    origin = first_position(offset, start, RULES)
    shown, theirs = facts_of_keys(padding, segments, batch, column, RULES)
    first, stop, whole, after_whole = tiles_that_see(
        *(tile, keys, count, origin, window, chunk),
        *(padding, segments, theirs, batch, ROWS, COLS, RULES),
    )

    key = load_values(k, batch, kv_head, tile, COLS, WIDTH, 1)
    value = load_values(v, batch, kv_head, tile, COLS, VALUE_WIDTH, 1)
    of_keys = ct.zeros((COLS, WIDTH), ct.float32)
    of_values = ct.zeros((COLS, VALUE_WIDTH), ct.float32)
    for head in range(kv_head * GROUP, kv_head * GROUP + GROUP):
        for i in range(first, stop):
            # The mask is small, and read before queries are.
            found, live = mask_of(mask, batch, head, i, tile, MASK, MASK_ROWS, COLS)
            if live:
                queries = load_values(q, batch, head, i, ROWS, WIDTH, LATENCY)
                grads = load_values(dout, batch, head, i, ROWS, VALUE_WIDTH, LATENCY)
                logs, rest = log_sums(lse, batch, head, i, ROWS, MASK, UNIT, True)
                zero = ct.zeros((COLS, ROWS), ct.float32)
                products = product(key, ct.transpose(queries), zero)
                weights, bend = weights_and_bend(
                    products, found, logs, rest, scale, cap, MASK, CAPPED, UNIT
                )
                positions = origin + numbers(i, ROWS, count)[None, :]
                weights = hide_keys(
                    weights, found, shown, theirs, segments, batch, positions, MASK, RULES
                )
                # Not `or`, for which the compiler writes the loop three times.
                if (i < whole) | (i >= after_whole):
                    row = i * ROWS + ct.arange(ROWS, dtype=ct.int32)[None, :]
                    low, high = queries_that_see(column, origin, count, window, chunk, RULES)
                    weights = ct.where(within(row, low, high), weights, 0.0)
                if OF_VALUES:
                    of_values = product(weights.astype(grads.dtype), grads, of_values)
                if OF_KEYS:
                    means = per_query(delta, batch, head, i, ROWS, True)
                    raised = product(value, ct.transpose(grads), zero - means)
                    slopes = slopes_of(weights, raised, bend, CAPPED)
                    of_keys = product(slopes.astype(queries.dtype), queries, of_keys)
    if OF_KEYS:
        result = (of_keys * grad_scale).astype(dk.dtype)
        ct.store(dk, (batch, kv_head, tile, 0), result.reshape((1, 1, COLS, WIDTH)))
    if OF_VALUES:
        result = of_values.astype(dv.dtype)
        ct.store(dv, (batch, kv_head, tile, 0), result.reshape((1, 1, COLS, VALUE_WIDTH)))


def plan(
    arguments: Mapping[str, Any],
    outputs: tuple[torch.Tensor | None, ...],
    arch: str,
    choose: Choose = as_planned,
) -> Launch | None:
    """See launch_plan. The arguments of attention_grad_q; outputs: ([B, K, L, D], [B, K, L, E])."""
    dk, dv = outputs
    if launch_plan.is_empty(outputs):
        return None
    inputs = grad_inputs(arguments)
    k, v = arguments["k"], arguments["v"]
    batch, heads, count, _width = k.shape
    capped = inputs.softcap is not None
    tiles = choose(grad_kv_tiles(arch, max(inputs.widths), k.dtype, capped))
    constants = inputs.constants(tiles)
    # An array in the place of one that is not wanted is neither read nor written through.
    written = (k if dk is None else dk, v if dv is None else dv)
    return launch_plan.launch(
        kernel(attention_grad_kv, **tiles.hints),
        (-(-count // tiles.cols), heads, batch),
        (*inputs.arrays, *written, *inputs.numbers, *constants, dk is not None, dv is not None),
    )


def samples() -> list[Sample]:
    return grad_samples(lambda q, k, v: (k, v))
