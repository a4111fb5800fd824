"""Arguments of both gradient kernels of attention: checked, masks of rank 4, unit of the scores."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch

from tile_backend.lowering.kernels import launch_plan
from tile_backend.lowering.kernels.attention_places import Places, limit, places
from tile_backend.lowering.kernels.attention_plan import (
    check_shapes,
    four_axes,
    mask_kind,
    unit_of,
)
from tile_backend.lowering.kernels.attention_scores import ADDED, BASE_2, LOG2_E, UNMASKED
from tile_backend.lowering.kernels.attention_tiles import AttentionTiles
from tile_backend.lowering.kernels.launch_plan import Sample
from tile_backend.lowering.kernels.row_layout import next_power_of_two

WIDEST_FLOAT32 = 64
"""A wider tile and its gradients would live in spilled registers."""


@dataclasses.dataclass(frozen=True)
class GradInputs:
    """arrays: dout, q, k, v, mask, padding, segments, offset, lse, delta; any array for one that is
    not there. widths: of q and v, padded.
    """

    arrays: tuple[torch.Tensor, ...]
    where: Places
    scale: float
    softcap: float | None
    group: int
    widths: tuple[int, int]
    mask_kind: int
    mask_varies_by_query: bool
    unit: int

    @property
    def crowded(self) -> bool:
        """Whether a soft cap or a mask tensor takes registers beside the scores."""
        return self.softcap is not None or self.mask_kind != UNMASKED

    @property
    def numbers(self) -> tuple[float, float, float, int, int, int]:
        """scale, cap and grad_scale of the kernels; start, window and chunk."""
        factor = LOG2_E if self.unit == BASE_2 else 1.0
        if self.softcap is None:
            scales = (self.scale * factor, 0.0)
        else:
            scales = (self.scale / self.softcap, self.softcap * factor)
        return (*scales, self.scale, self.where.start, self.where.window, self.where.chunk)

    def constants(self, tiles: AttentionTiles) -> tuple[Any, ...]:
        """GROUP to LATENCY."""
        mask_rows = tiles.rows if self.mask_varies_by_query else 1
        return (
            *(self.group, tiles.rows, tiles.cols, *self.widths, self.where.rules),
            *(self.mask_kind, mask_rows, self.softcap is not None, self.unit, tiles.latency),
        )


def grad_inputs(arguments: Mapping[str, Any]) -> GradInputs:
    """Check and reshape. Raises KernelLimit."""
    dout, q, k, v = (arguments[name] for name in ("dout", "q", "k", "v"))
    lse, delta, mask = (arguments[name] for name in ("lse", "delta", "mask"))
    launch_plan.require_float(dout=dout)
    check_shapes(q, k, v)
    if q.dtype is torch.float32 and max(q.shape[3], v.shape[3]) > WIDEST_FLOAT32:
        shapes = f"q {list(q.shape)}, v {list(v.shape)}"
        raise limit(f"{shapes}: the backward takes heads of float32 up to {WIDEST_FLOAT32} wide")
    launch_plan.require_same_dtype(q=q, dout=dout)
    if dout.shape != (*q.shape[:3], v.shape[3]) or delta.shape != q.shape[:3]:
        raise limit(f"dout {list(dout.shape)} and delta {list(delta.shape)} do not fit q and v")
    parts = (2,) if mask_kind(mask) == ADDED else ()
    if lse.shape != (*parts, *q.shape[:3]):
        raise limit(f"lse {list(lse.shape)} does not fit q {list(q.shape)} and the mask")
    padding, softcap = (arguments.get(name) for name in ("padding", "softcap"))
    if softcap == 0:
        raise limit("a soft cap of 0")
    if mask is not None:
        mask = four_axes(mask, q, k)
    of_keys = mask is not None and mask.shape[1:3] == (1, 1) and mask.dtype is torch.bool
    if of_keys and padding is None:
        padding, mask = mask[:, 0, 0], None
    where, kind = places({**arguments, "padding": padding}, q, k), mask_kind(mask)
    return GradInputs(
        arrays=(*(dout, q, k, v, q if mask is None else mask), *where.arrays(q), lse, delta),
        where=where,
        scale=float(arguments["scale"]),
        softcap=None if softcap is None else float(softcap),
        group=q.shape[1] // k.shape[1],
        widths=(next_power_of_two(q.shape[3]), next_power_of_two(v.shape[3])),
        mask_kind=kind,
        mask_varies_by_query=mask is not None and mask.shape[2] > 1,
        unit=unit_of(q.dtype, kind),
    )


Outputs = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], tuple[torch.Tensor, ...]]


def grad_sample(
    outputs: Outputs,
    name: str,
    queries: tuple[int, int, int],
    keys: tuple[int, int, int],
    dtype: torch.dtype = torch.bfloat16,
    **given: Any,
) -> Sample:
    """queries: heads, length, width; keys: heads, length, width of v. Laid out [B, S, H, D]."""
    heads, length, width = queries
    kv_heads, count, value_width = keys

    def made(rows: int, n: int, size: int) -> torch.Tensor:
        return torch.empty(2, rows, n, size, dtype=dtype, device="meta").transpose(1, 2)

    q, k = made(length, heads, width), made(count, kv_heads, width)
    q, k = made(length, heads, width), made(count, kv_heads, width)
    v = made(count, kv_heads, value_width)
    per_query = torch.empty(2, heads, length, device="meta")
    mask = given.get("mask")
    added = mask is not None and mask.dtype.is_floating_point
    absent = dict.fromkeys(("mask", "padding", "segments", "offset"))
    arguments = {
        "dout": made(length, heads, value_width),
        "q": q,
        "k": k,
        "v": v,
        **absent,
        "lse": torch.empty(2, *per_query.shape, device="meta") if added else per_query,
        "delta": torch.empty_like(per_query),
        "scale": width**-0.5,
        **given,
    }
    return name, arguments, tuple(map(torch.empty_like, outputs(q, k, v)))


def grad_samples(outputs: Outputs) -> list[Sample]:
    """Causal first; every rule and kind of mask, soft cap, head widths from 64 to 256, float32."""

    def sample(*given: Any, **more: Any) -> Sample:
        return grad_sample(outputs, *given, **more)

    def tensor(*shape: int, dtype: torch.dtype = torch.bool) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    square, wide = ((8, 512, 128), (2, 512, 128)), ((8, 512, 256), (2, 512, 256))
    single = {"dtype": torch.float32, "is_causal": True}
    return [
        sample("causal", *square, is_causal=True),
        sample("unmasked", (8, 512, 64), (8, 333, 64)),
        sample("window", *square, is_causal=True, window=128),
        sample("chunk", *square, is_causal=True, chunk=256, start=64),
        sample("padding", *square, is_causal=True, padding=tensor(2, 512)),
        sample("segments", *square, is_causal=True, segments=tensor(2, 512, dtype=torch.int32)),
        sample("attend", *square, mask=tensor(2, 1, 512, 512)),
        sample("added", *square, mask=tensor(2, 1, 512, 512, dtype=torch.bfloat16)),
        sample("softcap", *square, is_causal=True, softcap=50.0, window=128),
        sample("wide", *wide, is_causal=True),
        sample("wide_softcap", *wide, is_causal=True, softcap=50.0, window=128),
        sample("two_widths", (8, 512, 192), (8, 512, 128), is_causal=True),
        sample("float32", (8, 512, 64), (8, 512, 64), **single),
        sample("float32_capped", (8, 512, 64), (8, 512, 64), softcap=50.0, window=128, **single),
    ]
