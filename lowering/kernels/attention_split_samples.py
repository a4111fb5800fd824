"""The compile matrix of attention_split: the caches of known models."""

from __future__ import annotations

from typing import Any

import torch

from tile_backend.lowering.kernels.launch_plan import Sample

SPLITS = 8


def sample(
    name: str,
    queries: tuple[int, int, int],
    keys: tuple[int, int, int],
    dtype: torch.dtype = torch.bfloat16,
    **given: Any,
) -> Sample:
    """queries: heads, length, width; keys: heads, length, width of v. Laid out as caches are."""
    heads, length, width = queries
    kv_heads, count, value_width = keys

    def empty(*shape: int, dtype: torch.dtype = dtype) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    absent = ("mask", "padding", "segments", "offset", "window", "chunk", "softcap")
    arguments = {
        "q": empty(2, length, heads, width).transpose(1, 2),
        "k": empty(2, kv_heads, count, width),
        "v": empty(2, kv_heads, count, value_width),
        **dict.fromkeys(absent),
        "scale": width**-0.5,
        "splits": SPLITS,
        "is_causal": False,
        "start": 0,
        **given,
    }
    parts = empty(SPLITS, 2, heads, length, value_width, dtype=torch.float32)
    return name, arguments, (parts, empty(SPLITS, 2, heads, length, dtype=torch.float32))


def split_samples() -> list[Sample]:
    """The usual caches; each way to say which keys are seen; every tile of split_tiles."""

    def meta(*shape: int, dtype: torch.dtype = torch.bool) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    prefix: dict[str, Any] = {"offset": meta(1, dtype=torch.int64), "is_causal": True}
    return [
        sample("decode", (32, 1, 128), (8, 4096, 128)),
        sample("prefix", (32, 1, 128), (8, 4096, 128), **prefix),
        sample("several", (32, 4, 128), (8, 4096, 128), **prefix),
        sample("many", (32, 16, 128), (8, 4096, 128), **prefix, softcap=30.0),
        sample("padding", (32, 1, 128), (8, 4096, 128), **prefix, padding=meta(2, 4096)),
        sample("mask", (32, 1, 128), (8, 4096, 128), mask=meta(2, 1, 1, 4096)),
        sample("wide", (8, 1, 256), (1, 4096, 256), **prefix, window=512, softcap=50.0),
        sample("wide_many", (8, 16, 256), (1, 4096, 256), **prefix),
        sample("narrow", (64, 1, 64), (8, 4096, 64), **prefix, window=128),
        sample("values", (16, 1, 192), (16, 4096, 128), **prefix),
        sample("float32", (32, 1, 64), (8, 4096, 64), dtype=torch.float32, **prefix),
        sample("float32_wide", (32, 1, 128), (8, 4096, 128), dtype=torch.float32, **prefix),
        sample("float32_many", (32, 16, 64), (8, 4096, 64), dtype=torch.float32, **prefix),
    ]
