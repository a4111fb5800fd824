"""Softmax attention, flash style: no score matrix in memory, k and v of a group unexpanded."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import cuda.tile as ct
import torch

from tile_backend.lowering.kernels import launch_plan
from tile_backend.lowering.kernels.attention_loop import (
    ADDED,
    ADDED_BY_HAND,
    BASE_2,
    BASE_E,
    BASE_E_EXACT,
    LOG2_E,
    UNMASKED,
    ZERO,
    fold_in,
    hide,
    load_keys,
    load_mask,
    load_values,
    mask_scores,
    normalised,
    product,
)
from tile_backend.lowering.kernels.attention_plan import AttentionInputs, attention_inputs
from tile_backend.lowering.kernels.attention_tiles import attention_tiles
from tile_backend.lowering.kernels.compiled import kernel
from tile_backend.lowering.kernels.launch_plan import Launch, Sample
from tile_backend.lowering.kernels.row_layout import next_power_of_two


def attention(
    q: ct.Array,
    k: ct.Array,
    v: ct.Array,
    mask: ct.Array,
    out: ct.Array,
    scale: float,
    fill: float,
    GROUP: ct.Constant[int],
    ROWS: ct.Constant[int],
    COLS: ct.Constant[int],
    WIDTH: ct.Constant[int],
    VALUE_WIDTH: ct.Constant[int],
    CAUSAL: ct.Constant[bool],
    MASK: ct.Constant[int],
    MASK_ROWS: ct.Constant[int],
    UNIT: ct.Constant[int],
    LATENCY: ct.Constant[int],
) -> None:
    """Grid (query tiles, heads, batch). WIDTH, VALUE_WIDTH: head widths padded to powers of two.

    GROUP query heads share one head of k and v. `mask` is anything when UNMASKED.
    """
    # The last tiles have the most keys under a causal mask: they start first.
    tile = ct.num_blocks(0) - 1 - ct.bid(0) if CAUSAL else ct.bid(0)
    head = ct.bid(1)
    batch = ct.bid(2)
    keys = k.shape[2]
    tiles = ct.cdiv(keys, COLS)
    whole = keys // COLS  # tiles before this one need no comparison of positions
    if CAUSAL:
        tiles = min(tiles, ct.cdiv((tile + 1) * ROWS, COLS))
        whole = min(whole, (tile * ROWS + 1) // COLS)

    queries = ct.load(q, (batch, head, tile, 0), (1, 1, ROWS, WIDTH), padding_mode=ZERO)
    queries = queries.reshape((ROWS, WIDTH))
    peak = ct.full((ROWS, 1), -math.inf, ct.float32)
    mass = ct.zeros((ROWS, 1), ct.float32)
    total = ct.zeros((ROWS, VALUE_WIDTH), ct.float32)
    for j in range(tiles):
        key = load_keys(k, batch, head // GROUP, j, WIDTH, COLS, LATENCY)
        scores = product(queries, key, ct.zeros((ROWS, COLS), ct.float32)) * scale
        if MASK != UNMASKED:
            found = load_mask(mask, batch, head, tile, j, MASK_ROWS, COLS)
            scores = mask_scores(scores, found, fill, MASK)
        if j >= whole:
            scores = hide(scores, tile, j, keys, CAUSAL)
        value = load_values(v, batch, head // GROUP, j, COLS, VALUE_WIDTH, LATENCY)
        peak, mass, total = fold_in(scores, value, peak, mass, total, MASK, UNIT)
    result = normalised(total, mass, MASK).astype(out.dtype)
    ct.store(out, (batch, head, tile, 0), result.reshape((1, 1, ROWS, VALUE_WIDTH)))


def unit_of(inputs: AttentionInputs) -> int:
    """The unit of the scores, see attention_loop."""
    if inputs.tensors[0].dtype is torch.float32:
        return BASE_E_EXACT
    return BASE_E if inputs.mask_kind in (ADDED, ADDED_BY_HAND) else BASE_2


def scale_and_fill(inputs: AttentionInputs, unit: int) -> tuple[float, float]:
    """Both in the unit of the scores; a finite fill stays finite in float32."""
    factor = LOG2_E if unit == BASE_2 else 1.0
    fill = inputs.fill * factor
    if math.isfinite(inputs.fill):
        limit = torch.finfo(torch.float32).max
        fill = min(max(fill, -limit), limit)
    return inputs.scale * factor, fill


def plan(
    arguments: Mapping[str, Any], outputs: tuple[torch.Tensor | None, ...], arch: str
) -> Launch | None:
    """See launch_plan.

    q [B, H, S, D], k [B, K, L, D] and v [B, K, L, E] of any strides; outputs: ([B, H, S, E],).
    """
    (out,) = outputs
    if out is None or launch_plan.is_empty(outputs):
        return None
    inputs = attention_inputs(arguments, out)
    q, k, v, mask, out = inputs.tensors
    batch, heads, length, width = q.shape
    padded = next_power_of_two(width), next_power_of_two(v.shape[3])
    unit = unit_of(inputs)
    tiles = attention_tiles(arch, max(padded), length, q.dtype)
    mask_rows = tiles.rows if mask is not None and mask.shape[2] > 1 else 1
    return launch_plan.launch(
        kernel(attention, **tiles.hints),
        (-(-length // tiles.rows), heads, batch),
        (
            *(q, k, v, q if mask is None else mask, out),
            *scale_and_fill(inputs, unit),
            *(heads // k.shape[1], tiles.rows, tiles.cols, *padded),
            *(inputs.causal, inputs.mask_kind, mask_rows, unit, tiles.latency),
        ),
    )


def sample(
    name: str,
    queries: tuple[int, int, int],
    keys: tuple[int, int, int],
    dtype: torch.dtype = torch.bfloat16,
    mask: torch.Tensor | None = None,
    **given: Any,
) -> Sample:
    """queries: heads, length, width; keys: heads, length, width of v. Laid out [B, S, H, D]."""
    heads, length, width = queries
    kv_heads, count, value_width = keys
    q, k, v, out = (
        torch.empty(2, rows, n, size, dtype=dtype, device="meta").transpose(1, 2)
        for rows, n, size in (
            (length, heads, width),
            (count, kv_heads, width),
            (count, kv_heads, value_width),
            (length, heads, value_width),
        )
    )
    attributes = {"scale": width**-0.5, "is_causal": False, "fill": None, **given}
    return name, {"q": q, "k": k, "v": v, "mask": mask, **attributes}, (out,)


def samples() -> list[Sample]:
    """Causal first; every kind of mask, head widths from 64 to 256, one query, float32."""

    def mask(*shape: int, dtype: torch.dtype = torch.bool) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    low = torch.bfloat16
    return [
        sample("causal", (8, 512, 128), (2, 512, 128), is_causal=True),
        sample("unmasked", (8, 512, 64), (8, 333, 64)),
        sample("padding", (8, 512, 64), (8, 512, 64), mask=mask(2, 1, 1, 512)),
        sample("attend", (8, 512, 128), (8, 512, 128), mask=mask(2, 1, 512, 512)),
        sample("filled", (8, 512, 80), (8, 512, 80), mask=mask(2, 1, 512, 512), fill=-1e9),
        sample("added", (8, 512, 128), (8, 512, 128), mask=mask(2, 1, 512, 512, dtype=low)),
        sample(
            "added_by_hand",
            (8, 512, 64),
            (8, 512, 64),
            mask=mask(1, 8, 1, 512, dtype=low),
            fill=-math.inf,
        ),
        sample("wide", (8, 512, 256), (2, 512, 256), is_causal=True),
        sample("short", (8, 40, 192), (8, 512, 128)),
        sample("short_narrow", (8, 40, 128), (8, 512, 128)),
        sample("decode", (32, 1, 128), (8, 1024, 128), mask=mask(2, 1, 1, 1024)),
        sample("decode_wide", (8, 1, 256), (2, 1024, 256)),
        sample("float32", (8, 512, 64), (8, 512, 64), dtype=torch.float32, is_causal=True),
        sample("float32_wide", (8, 512, 128), (8, 512, 128), dtype=torch.float32),
        sample("float32_decode", (8, 1, 64), (8, 512, 64), dtype=torch.float32),
        sample("float32_decode_wide", (8, 1, 128), (8, 512, 128), dtype=torch.float32),
    ]
