"""What the kernel of the attention ops takes: checked, masks of rank 4, heads packed.

With one query per head, the queries of a group of heads become the rows of one tile, so that a key
is read once for the whole group: q [B, H, 1, D] is viewed as [B, K, H / K, D].
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import torch

from tile_backend.lowering.kernels import launch_plan
from tile_backend.lowering.kernels.attention_loop import (
    FILLED,
    GIVES_MEAN,
    GIVES_NAN,
    GIVES_ZERO,
)
from tile_backend.lowering.kernels.attention_places import Places, limit, places
from tile_backend.lowering.kernels.attention_scores import (
    ADDED,
    ATTEND,
    BASE_2,
    BASE_E,
    BASE_E_EXACT,
    LOG2_E,
    UNMASKED,
)
from tile_backend.lowering.kernels.launch_plan import KernelLimit
from tile_backend.lowering.reason import ReasonKind

WIDEST_HEAD = {torch.bfloat16: 256, torch.float16: 256, torch.float32: 128}
"""By dtype: a wider tile would live in spilled registers."""
WEIGHS_NOTHING = torch.finfo(torch.bfloat16).min
"""A fill up to this, also the lowest float32, has weight 0 beside any visible score."""


@dataclasses.dataclass(frozen=True)
class AttentionInputs:
    """mask: rank 4 or None. sinks: [heads, queries] or None. packed: see the module.

    mask_kind, unit: constants of attention_scores; empty: of attention_loop.
    """

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    mask: torch.Tensor | None
    sinks: torch.Tensor | None
    out: torch.Tensor
    lse: torch.Tensor | None
    places: Places
    packed: bool
    mask_kind: int
    empty: int
    unit: int
    softcap: float | None
    scale: float
    fill: float

    @property
    def may_be_empty(self) -> bool:
        """Whether a query may have seen no key after the first tile of keys."""
        return self.mask_kind != UNMASKED or not self.places.all_see_the_first_key

    @property
    def numbers(self) -> tuple[float, float, float]:
        """scale, cap and fill of the kernel; a finite fill stays finite in float32."""
        factor = LOG2_E if self.unit == BASE_2 else 1.0
        fill = self.fill * factor
        if math.isfinite(self.fill):
            largest = torch.finfo(torch.float32).max
            fill = min(max(fill, -largest), largest)
        if self.softcap is None:
            return self.scale * factor, 0.0, fill
        return self.scale / self.softcap, self.softcap * factor, fill


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
    if max(width, v.shape[3]) > widest or min(width, v.shape[3]) == 0:
        raise limit(f"{shapes}: a {q.dtype} head is 1 to {widest} wide")
    if k.shape[2] == 0:
        raise limit(f"{shapes}: there are no keys")


def mask_kind(mask: torch.Tensor | None) -> int:
    """How the kernel applies the mask tensor."""
    if mask is None:
        return UNMASKED
    if mask.dtype is torch.bool:
        return ATTEND
    launch_plan.require_float(mask=mask)
    return ADDED


def meaning_of_empty(fill: float | None, kind: int, where: Places) -> int:
    """What hidden keys are to a row that sees none, or to every row: see attention_loop."""
    if fill is None:
        return GIVES_ZERO
    if kind == ADDED:
        if where.hides and math.isfinite(fill):
            raise KernelLimit(
                ReasonKind.SEMANTICS_UNSUPPORTED,
                f"a mask that is added, and hidden scores that are {fill}",
                "use fill=-inf",
            )
        return GIVES_NAN
    if fill == -math.inf or not (where.hides or kind == ATTEND):
        return GIVES_NAN
    return GIVES_MEAN if fill <= WEIGHS_NOTHING else FILLED


def unit_of(dtype: torch.dtype, kind: int) -> int:
    """The unit of the scores, see attention_scores."""
    if dtype is torch.float32:
        return BASE_E_EXACT
    return BASE_E if kind == ADDED else BASE_2


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


def grouped_rows(lse: torch.Tensor, kv_heads: int) -> torch.Tensor:
    """[..., B, H, 1] as [..., B, K, H / K], a view."""
    return lse.squeeze(-1).unflatten(-1, (kv_heads, -1))


def spread(sinks: torch.Tensor, q: torch.Tensor, kv_heads: int, packed: bool) -> torch.Tensor:
    """sinks [H] as one for each head and row of q as the kernel has them, a view."""
    heads = q.shape[1]
    if packed:
        return sinks.unflatten(0, (kv_heads, heads // kv_heads))
    return sinks[:, None].expand(heads, q.shape[2])


def check_extras(q: torch.Tensor, sinks: torch.Tensor | None, softcap: float | None) -> None:
    """sinks [H]; a soft cap other than 0."""
    if softcap == 0:
        raise limit("a soft cap of 0")
    if sinks is not None:
        launch_plan.require_float(sinks=sinks)
        if sinks.shape != q.shape[1:2]:
            raise limit(f"`sinks` is {list(sinks.shape)}; attention takes one for each head")


def attention_inputs(
    arguments: Mapping[str, Any], out: torch.Tensor, lse: torch.Tensor | None = None
) -> AttentionInputs:
    """Check and reshape. `out` is [B, H, S, E], `lse` as attention_loop.store_log_sum_exp has it.

    A bool mask of keys, the same for every head and query, is padding.
    """
    q, k, v, mask = (arguments[name] for name in ("q", "k", "v", "mask"))
    sinks, fill, softcap = (arguments.get(name) for name in ("sinks", "fill", "softcap"))
    shown = arguments.get("padding")
    check_shapes(q, k, v)
    if mask is not None:
        mask = four_axes(mask, q, k)
    if mask is not None and mask.shape[1:3] == (1, 1) and mask.dtype is torch.bool:
        mask, shown = (None, mask[:, 0, 0]) if shown is None else (mask, shown)
    where, kind = places({**arguments, "padding": shown}, q, k), mask_kind(mask)
    empty = meaning_of_empty(fill, kind, where)
    if lse is not None and empty == FILLED:
        raise KernelLimit(
            ReasonKind.SEMANTICS_UNSUPPORTED,
            f"the log-sum-exp of scores whose hidden ones are {fill} and count",
            "use fill=-inf, or a mask that is added",
        )
    check_extras(q, sinks, softcap)
    packed = q.shape[2] == 1 and q.shape[1] != k.shape[1]
    if sinks is not None:
        sinks = spread(sinks, q, k.shape[1], packed)
    if packed:
        if mask is not None and mask.shape[1] > 1:
            mask = grouped(mask, k.shape[1])
        if lse is not None:
            lse = grouped_rows(lse, k.shape[1])
        q, out = grouped(q, k.shape[1]), grouped(out, k.shape[1])
    return AttentionInputs(
        *(q, k, v, mask, sinks, out, lse, where, packed, kind, empty, unit_of(q.dtype, kind)),
        softcap=None if softcap is None else float(softcap),
        scale=float(arguments["scale"]),
        fill=0.0 if fill is None else float(fill),
    )
