"""Host side of attention_reach: the arguments that say which keys a query sees, checked."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch

from tile_backend.lowering.kernels.attention_reach import (
    CAUSAL,
    CHUNK,
    NO_RULES,
    OFFSET,
    PADDING,
    SEGMENTS,
    WINDOW,
)
from tile_backend.lowering.kernels.launch_plan import KernelLimit
from tile_backend.lowering.reason import ReasonKind

FAR = 2**30
"""Past every position: a window or chunk of it hides nothing, and sums of two fit an int32."""


@dataclasses.dataclass(frozen=True)
class Places:
    """padding, segments: rank 2 or None; offset: rank 1 or None. rules: see attention_reach."""

    padding: torch.Tensor | None
    segments: torch.Tensor | None
    offset: torch.Tensor | None
    start: int
    window: int
    chunk: int
    rules: int

    def arrays(self, instead: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """padding, segments, offset; `instead` for one that is None: a kernel takes no None."""
        found = (self.padding, self.segments, self.offset)
        padding, segments, offset = (instead if x is None else x for x in found)
        return padding, segments, offset

    @property
    def hides(self) -> bool:
        """Whether any query may not see some key."""
        return (self.rules & ~OFFSET) != NO_RULES

    @property
    def all_see_the_first_key(self) -> bool:
        """Whether each query sees key 0, whatever the tensors hold."""
        return self.rules in (NO_RULES, OFFSET) or (self.rules == CAUSAL and self.start >= 0)


def places(arguments: Mapping[str, Any], q: torch.Tensor, k: torch.Tensor) -> Places:
    """Of an attention op's arguments. q [B, H, S, D], k [B, K, L, D]: as the op has them."""
    window, chunk = arguments.get("window"), arguments.get("chunk")
    padding, segments = (arguments.get(name) for name in ("padding", "segments"))
    offset = arguments.get("offset")
    start = int(arguments.get("start") or 0)
    if not -FAR < start < FAR or k.shape[2] >= FAR or q.shape[2] >= FAR:
        raise limit(f"positions from {start} on among {k.shape[2]} keys leave the range of int32")
    if chunk is not None and chunk < 1:
        raise limit(f"a chunk of {chunk} positions")
    for name, value in (("padding", padding), ("segments", segments)):
        if value is not None and (
            value.dim() != 2
            or value.shape[0] not in (1, q.shape[0])
            or value.shape[1] != k.shape[2]
        ):
            raise limit(f"`{name}` is {list(value.shape)}; attention takes [batch, keys]")
    if padding is not None and padding.dtype is not torch.bool:
        raise KernelLimit(ReasonKind.DTYPE_LIMIT, f"`padding` is {padding.dtype}, not bool")
    for name, value in (("segments", segments), ("offset", offset)):
        if value is not None and value.dtype not in (torch.int32, torch.int64):
            raise KernelLimit(ReasonKind.DTYPE_LIMIT, f"`{name}` is {value.dtype}, no integer")
    if offset is not None and offset.numel() != 1:
        raise limit(f"`offset` has {offset.numel()} elements; attention takes one")
    positional = bool(arguments.get("is_causal")) or window is not None or chunk is not None
    rules = {
        CAUSAL: bool(arguments.get("is_causal")),
        WINDOW: window is not None,
        CHUNK: chunk is not None,
        PADDING: padding is not None,
        SEGMENTS: segments is not None,
        OFFSET: offset is not None and (positional or segments is not None),
    }
    return Places(
        padding=None if padding is None else padding.view(torch.int8),
        segments=segments,
        offset=None if offset is None else offset.as_strided((1,), (1,), offset.storage_offset()),
        start=start,
        window=min(max(window or 0, -FAR), FAR),
        chunk=min(chunk or 1, FAR),
        rules=sum(rule for rule, holds in rules.items() if holds),
    )


def limit(text: str) -> KernelLimit:
    """A shape or number that the kernels do not take."""
    return KernelLimit(ReasonKind.SHAPE_LIMIT, text)
