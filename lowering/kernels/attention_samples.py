"""The compile matrix of `attention`: every kind of rule and mask, every head width, one query."""

from __future__ import annotations

import math
from typing import Any

import torch

from tile_backend.lowering.kernels.launch_plan import Sample

LOWEST = torch.finfo(torch.float32).min


def sample(
    name: str,
    queries: tuple[int, int, int],
    keys: tuple[int, int, int],
    dtype: torch.dtype = torch.bfloat16,
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
    absent = dict.fromkeys(("mask", "padding", "segments", "offset", "sinks"))
    attributes = {**absent, "scale": width**-0.5, "is_causal": False, "fill": None, **given}
    return name, {"q": q, "k": k, "v": v, **attributes}, (out,)


def meta(*shape: int, dtype: torch.dtype = torch.bool) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def samples() -> list[Sample]:
    """Causal first."""
    return [*plain(), *with_masks(), *with_rules(), *for_few_queries(), *of_float32()]


def plain() -> list[Sample]:
    """Head widths from 64 to 256."""
    return [
        sample("causal", (8, 512, 128), (2, 512, 128), is_causal=True),
        sample("unmasked", (8, 512, 64), (8, 333, 64)),
        sample("wide", (8, 512, 256), (2, 512, 256), is_causal=True),
        sample("short", (8, 40, 192), (8, 512, 128)),
        sample("short_narrow", (8, 40, 128), (8, 512, 128)),
    ]


def with_masks() -> list[Sample]:
    """Mask tensors."""
    low = torch.bfloat16
    square, narrow = (8, 512, 128), (8, 512, 64)
    one_head = meta(2, 1, 512, 512)
    return [
        sample("padding", narrow, narrow, mask=meta(2, 1, 1, 512)),
        sample("attend", square, square, mask=one_head),
        sample("filled", (8, 512, 80), (8, 512, 80), mask=one_head, fill=-1e9),
        sample("added", square, square, mask=meta(2, 1, 512, 512, dtype=low)),
        sample("added_by_hand", narrow, narrow, mask=meta(1, 8, 1, 512, dtype=low), fill=-math.inf),
        sample("causal_mask", square, square, mask=one_head, is_causal=True),
    ]


def with_rules() -> list[Sample]:
    """What a model says without a mask tensor: Mistral, Llama 4, Gemma 2, gpt-oss, packed rows."""
    large, group = (8, 512, 128), (2, 512, 128)
    causal: dict[str, Any] = {"is_causal": True}
    ids = meta(2, 512, dtype=torch.int64)
    capped: dict[str, Any] = {"softcap": 50.0, "window": 256}
    gpt_oss: dict[str, Any] = {"sinks": meta(8, dtype=torch.bfloat16), "window": 128}
    shown = meta(2, 512)
    return [
        sample("window", large, group, window=256, **causal),
        sample("chunk", large, group, chunk=256, **causal),
        sample("padded", large, group, padding=shown, **causal),
        sample("padded_mean", large, group, padding=shown, fill=LOWEST, **causal),
        sample("packed", large, group, segments=ids, **causal),
        sample("cache", large, group, offset=meta(1, dtype=torch.int64), **causal),
        sample("capped_window", (8, 512, 256), (4, 512, 256), padding=shown, **capped, **causal),
        sample("capped", large, group, softcap=30.0, **causal),
        sample("sinks", (8, 512, 64), (2, 512, 64), padding=shown, **gpt_oss, **causal),
    ]


def for_few_queries() -> list[Sample]:
    """Decoding: the rows of a tile are the heads of a group."""
    place: dict[str, Any] = {"is_causal": True, "offset": meta(dtype=torch.int64)}
    sinks = meta(64, dtype=torch.bfloat16)
    return [
        sample("decode", (32, 1, 128), (8, 1024, 128), mask=meta(2, 1, 1, 1024)),
        sample("decode_wide", (8, 1, 256), (2, 1024, 256)),
        sample("decode_cache", (32, 1, 128), (8, 1024, 128), padding=meta(2, 1024), **place),
        sample("decode_sinks", (64, 1, 64), (8, 1024, 64), sinks=sinks, window=128, **place),
    ]


def of_float32() -> list[Sample]:
    """Products of three parts."""
    full: dict[str, Any] = {"dtype": torch.float32}
    return [
        sample("float32", (8, 512, 64), (8, 512, 64), is_causal=True, **full),
        sample("float32_wide", (8, 512, 128), (8, 512, 128), **full),
        sample("float32_window", (8, 512, 128), (2, 512, 128), is_causal=True, window=256, **full),
        sample("float32_decode", (8, 1, 64), (8, 512, 64), **full),
        sample("float32_decode_wide", (8, 1, 128), (8, 512, 128), **full),
    ]
