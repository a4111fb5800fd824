"""The gradient of attention's q: per tile of queries, one pass over the keys that it sees."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cuda.tile as ct
import torch

from tile_backend.lowering.kernels import launch_plan
from tile_backend.lowering.kernels.attention_grad_plan import grad_inputs, grad_samples
from tile_backend.lowering.kernels.attention_grad_tiles import grad_q_tiles
from tile_backend.lowering.kernels.attention_grad_weights import (
    log_sums,
    per_query,
    slopes_of,
    weights_and_bend,
)
from tile_backend.lowering.kernels.attention_loop import load_values
from tile_backend.lowering.kernels.attention_reach import (
    CAUSAL,
    SEGMENTS,
    at,
    first_position,
    hide_by_data,
    hide_by_position,
    keys_seen_from,
    keys_that_may_be_seen,
    numbers,
    some,
    tiles_between,
    whole_tiles_between,
)
from tile_backend.lowering.kernels.attention_scores import (
    ATTEND,
    UNMASKED,
    ZERO,
    load_keys,
    load_mask,
    product,
)
from tile_backend.lowering.kernels.compiled import kernel
from tile_backend.lowering.kernels.configuration import Choose, as_planned
from tile_backend.lowering.kernels.launch_plan import Launch, Sample


def attention_grad_q(
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
    dq: ct.Array,
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
) -> None:
    """Grid (query tiles, heads, batch). What is not there (mask, padding, ...) is any array.

    Longer than 40 lines because a kernel passes each of its arrays and numbers to whatever function
    is cut out of it.
    """
    # The last tiles have the most keys under a causal mask: they start first.
    tile = ct.num_blocks(0) - 1 - ct.bid(0) if (RULES & CAUSAL) != 0 else ct.bid(0)
    head = ct.bid(1)
    batch = ct.bid(2)
    keys = k.shape[2]
    origin = first_position(offset, start, RULES)
    positions = origin + numbers(tile, ROWS, q.shape[2])[:, None]
    lowest = origin + tile * ROWS
    highest = origin + min(tile * ROWS + ROWS, q.shape[2]) - 1
    early = keys_seen_from(lowest, keys, window, chunk, RULES)
    late = keys_seen_from(highest, keys, window, chunk, RULES)
    whole, after_whole = whole_tiles_between(late[0], early[1], COLS)
    own = at(segments, batch, positions) if (RULES & SEGMENTS) != 0 else 0
    begin = ct.minimum(early[0], late[1])  # for an empty interval to stay empty
    begin, end = keys_that_may_be_seen(begin, late[1], padding, segments, own, batch, RULES)
    first, stop = tiles_between(begin, end, COLS)

    queries = ct.load(q, (batch, head, tile, 0), (1, 1, ROWS, WIDTH), padding_mode=ZERO)
    queries = queries.reshape((ROWS, WIDTH))
    shape = (1, 1, ROWS, VALUE_WIDTH)
    grads = ct.load(dout, (batch, head, tile, 0), shape, padding_mode=ZERO)
    grads = grads.reshape((ROWS, VALUE_WIDTH))
    logs, rest = log_sums(lse, batch, head, tile, ROWS, MASK, UNIT, False)
    means = per_query(delta, batch, head, tile, ROWS, False)
    total = ct.zeros((ROWS, WIDTH), ct.float32)
    for j in range(first, stop):
        found, live = 0, True
        if MASK != UNMASKED:
            found = load_mask(mask, batch, head, tile, j, MASK_ROWS, COLS)
        if MASK == ATTEND:
            live = some(found)  # the mask is small, and read before keys and values are
        if live:
            key = load_values(k, batch, head // GROUP, j, COLS, WIDTH, LATENCY)
            value = load_keys(v, batch, head // GROUP, j, VALUE_WIDTH, COLS, LATENCY)
            zero = ct.zeros((ROWS, COLS), ct.float32)
            products = product(queries, ct.transpose(key), zero)
            weights, bend = weights_and_bend(
                products, found, logs, rest, scale, cap, MASK, CAPPED, UNIT
            )
            if MASK == ATTEND:
                weights = ct.where(found, weights, 0.0)
            weights = hide_by_data(weights, 0.0, padding, segments, own, batch, j, RULES)
            # Not `or`, for which the compiler writes the loop three times.
            if (j < whole) | (j >= after_whole):
                low, high = keys_seen_from(positions, keys, window, chunk, RULES)
                weights = hide_by_position(weights, 0.0, j, low, high, keys, False)
            raised = product(grads, value, zero - means)
            slopes = slopes_of(weights, raised, bend, CAPPED)
            total = product(slopes.astype(key.dtype), key, total)
    result = (total * grad_scale).astype(dq.dtype)
    ct.store(dq, (batch, head, tile, 0), result.reshape((1, 1, ROWS, WIDTH)))


def plan(
    arguments: Mapping[str, Any],
    outputs: tuple[torch.Tensor | None, ...],
    arch: str,
    choose: Choose = as_planned,
) -> Launch | None:
    """See launch_plan. The arguments of `attention` but for its sinks, and dout [B, H, S, E], lse
    and delta float32 [B, H, S], any strides; outputs: ([B, H, S, D],).
    """
    (dq,) = outputs
    if dq is None or launch_plan.is_empty(outputs):
        return None
    inputs = grad_inputs(arguments)
    batch, heads, length, _width = dq.shape
    tiles = choose(grad_q_tiles(arch, max(inputs.widths), dq.dtype, inputs.crowded))
    return launch_plan.launch(
        kernel(attention_grad_q, **tiles.hints),
        (-(-length // tiles.rows), heads, batch),
        (*inputs.arrays, dq, *inputs.numbers, *inputs.constants(tiles)),
    )


def samples() -> list[Sample]:
    return grad_samples(lambda q, k, v: (q,))
