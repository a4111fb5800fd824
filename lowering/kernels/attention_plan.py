"""Arguments of `attention` as the kernel wants them: checked, masks of rank 4, decode packed.

With one query per head, the queries of a group of heads become the rows of one tile, so that a key
is read once for the whole group: q [B, H, 1, D] is viewed as [B, K, H / K, D].
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch

from tile_backend.lowering.kernels import launch_plan
from tile_backend.lowering.kernels.attention_loop import (
    ADDED,
    ADDED_BY_HAND,
    ATTEND,
    FILLED,
    UNMASKED,
)
from tile_backend.lowering.kernels.launch_plan import KernelLimit
from tile_backend.lowering.reason import ReasonKind

WIDEST_HEAD = {torch.bfloat16: 256, torch.float16: 256, torch.float32: 128}
"""By dtype: a wider tile would live in spilled registers."""


@dataclasses.dataclass(frozen=True)
class AttentionInputs:
    """tensors: q, k, v, mask (rank 4 or None), out. mask_kind: a constant of attention_loop."""

    tensors: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor]
    scale: float
    fill: float
    causal: bool
    mask_kind: int


def limit(text: str, fix: str = "") -> KernelLimit:
    """A shape that the kernel does not take."""
    return KernelLimit(ReasonKind.SHAPE_LIMIT, text, fix)


def check_shapes(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> None:
    """q [B, H, S, D], k [B, K, L, D], v [B, K, L, E], H a multiple of K, D and E at most
    WIDEST_HEAD.
    """
    launch_plan.require_float(q=q, k=k, v=v)
    launch_plan.require_same_dtype(q=q, k=k, v=v)
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        if tensor.dim() != 4:
            raise limit(f"`{name}` has {tensor.dim()} dimensions; attention takes [B, H, S, D]")
    shapes = f"q {list(q.shape)}, k {list(k.shape)}, v {list(v.shape)}"
    batch, heads, _length, width = q.shape
    if k.shape[0] != batch or k.shape[3] != width or v.shape[:3] != k.shape[:3]:
        raise limit(f"{shapes} do not fit each other")
    if k.shape[1] == 0 or heads % k.shape[1]:
        raise limit(f"{heads} query heads are no multiple of {k.shape[1]} key heads")
    widest = WIDEST_HEAD[q.dtype]
    if max(width, v.shape[3]) > widest or width == 0:
        raise limit(f"{shapes}: a {q.dtype} head is 1 to {widest} wide")
    if k.shape[2] == 0:
        raise limit(f"{shapes}: there are no keys")


def mask_kind(mask: torch.Tensor | None, fill: float | None, causal: bool) -> int:
    """How the kernel applies the mask."""
    if mask is None:
        if fill is not None:
            raise KernelLimit(ReasonKind.SEMANTICS_UNSUPPORTED, "`fill` without a mask")
        return UNMASKED
    if fill is None and causal:
        raise KernelLimit(
            ReasonKind.SEMANTICS_UNSUPPORTED,
            "a mask together with is_causal",
            "put the causal part into the mask",
        )
    if mask.dtype is torch.bool:
        return ATTEND if fill is None else FILLED
    launch_plan.require_float(mask=mask)
    return ADDED if fill is None else ADDED_BY_HAND


def four_axes(mask: torch.Tensor, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """The mask as [B or 1, H or 1, S or 1, L], a view."""
    wanted = (q.shape[0], q.shape[1], q.shape[2], k.shape[2])
    if mask.dim() > 4 or mask.dim() == 0:
        raise limit(f"`mask` has {mask.dim()} dimensions; attention takes 1 to 4")
    mask = mask[(None,) * (4 - mask.dim())] if mask.dim() < 4 else mask
    if any(n not in (1, size) for n, size in zip(mask.shape, wanted, strict=True)):
        raise limit(f"`mask` {list(mask.shape)} does not broadcast to {list(wanted)}")
    return mask if mask.shape[3] == wanted[3] else mask.expand(-1, -1, -1, wanted[3])


def grouped(x: torch.Tensor, kv_heads: int) -> torch.Tensor:
    """[B, H, 1, D] as [B, K, H / K, D], a view: the axis of length 1 gives way to the group."""
    batch, heads, _one, width = x.shape
    group = heads // kv_heads
    strides = (x.stride(0), x.stride(1) * group, x.stride(1), x.stride(3))
    return x.as_strided((batch, kv_heads, group, width), strides, x.storage_offset())


def attention_inputs(arguments: Mapping[str, Any], out: torch.Tensor) -> AttentionInputs:
    """Check and reshape. `out` is [B, H, S, E]."""
    q, k, v, mask = (arguments[name] for name in ("q", "k", "v", "mask"))
    fill, causal = arguments.get("fill"), bool(arguments.get("is_causal", False))
    check_shapes(q, k, v)
    kind = mask_kind(mask, fill, causal)
    if mask is not None:
        mask = four_axes(mask, q, k)
    # Top-left alignment: a single query under a causal mask sees the first key only.
    if q.shape[2] == 1 and q.shape[1] != k.shape[1] and not (causal and kind == UNMASKED):
        if mask is not None and mask.shape[1] > 1:
            mask = grouped(mask, k.shape[1])
        q, out = grouped(q, k.shape[1]), grouped(out, k.shape[1])
    return AttentionInputs(
        tensors=(q, k, v, mask, out),
        scale=float(arguments["scale"]),
        fill=0.0 if fill is None else float(fill),
        causal=causal and kind == UNMASKED,
        mask_kind=kind,
    )
