"""Attention as Transformers writes it, at the shapes of real models: what `bench.attention` times.

A program builds its boolean mask out of positions, repeats K and V for the query heads of a group,
and calls `scaled_dot_product_attention`. Only the query-key pairs that the mask shows are work.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F

Program = Callable[..., torch.Tensor]
PRODUCTS = {False: 4, True: 14}
"""FLOPs per pair and element of a head. Forward: two products of two; the backward has five."""


@dataclasses.dataclass(frozen=True)
class Case:
    """One call. mask: one of MASKS. size: of a window or a chunk. filled: keys of the cache that
    hold something, before those of the queries. train: forward and backward.
    """

    title: str
    mask: str
    batch: int
    heads: int
    kv_heads: int
    width: int
    queries: int
    keys: int
    size: int = 0
    filled: int = 0
    train: bool = False
    dtype: torch.dtype = torch.bfloat16

    @property
    def step(self) -> str:
        return "forward and backward" if self.train else "forward"

    @property
    def scale(self) -> float:
        return float(self.width**-0.5)

    @property
    def groups(self) -> int:
        """Query heads per head of keys and values."""
        return self.heads // self.kv_heads

    @property
    def decodes(self) -> bool:
        return self.mask == "decode"

    def inputs(self, device: str) -> list[torch.Tensor]:
        """q, k, v, [B, H, S, D] of which lies as [B, S, H, D], and what the mask reads. Random; the
        same each time.
        """
        torch.manual_seed(0)
        shapes = (
            (self.batch, self.queries, self.heads, self.width),
            *[(self.batch, self.keys, self.kv_heads, self.width)] * 2,
        )
        made = [torch.randn(s, dtype=self.dtype, device=device).transpose(1, 2) for s in shapes]
        return [*(x.requires_grad_(self.train) for x in made), *self.operands(device)]

    def operands(self, device: str) -> list[torch.Tensor]:
        """What the mask reads besides positions."""
        if self.mask == "padding":
            first = torch.tensor(self.pads, device=device)
            return [torch.arange(self.keys, device=device)[None] >= first[:, None]]
        if self.mask == "packed":
            lengths = torch.tensor(self.packed, device=device)
            numbers = torch.arange(len(self.packed), device=device).repeat_interleave(lengths)
            return [numbers[None].repeat(self.batch, 1)]
        if self.decodes:
            return [torch.tensor(self.filled, device=device)]
        return []

    @property
    def pads(self) -> list[int]:
        """How many keys are padding, at the left, in each entry of a batch."""
        return [self.keys * (entry + 1) // (2 * self.batch + 1) for entry in range(self.batch)]

    @property
    def packed(self) -> list[int]:
        """The lengths of four sequences, which end where no tile does."""
        ends = [0, *(self.keys * part // 11 for part in (1, 3, 7)), self.keys]
        return [end - begin for begin, end in itertools.pairwise(ends)]

    @property
    def pairs(self) -> int:
        """Query-key pairs that the mask shows, of all batch entries and one head."""
        length = self.keys
        if self.mask == "none":
            return self.batch * self.queries * length
        if self.mask == "padding":
            return sum(triangle(length - pad) for pad in self.pads)
        if self.mask == "packed":
            return self.batch * sum(map(triangle, self.packed))
        if self.mask == "window":
            return self.batch * (triangle(length) - triangle(max(0, length - self.size)))
        if self.mask == "chunk":
            whole, rest = divmod(length, self.size)
            return self.batch * (whole * triangle(self.size) + triangle(rest))
        if self.mask == "causal":
            return self.batch * triangle(length)
        assert self.decodes
        return self.batch * sum(self.filled + query + 1 for query in range(self.queries))

    @property
    def flop(self) -> int:
        """Of the products, over the pairs that are shown."""
        return PRODUCTS[self.train] * self.heads * self.pairs * self.width

    @property
    def bytes(self) -> int:
        """Of K and V up to the last key that a query sees: what decoding has to read."""
        seen = self.filled + self.queries if self.decodes else self.keys
        return 2 * self.batch * self.kv_heads * seen * self.width * self.dtype.itemsize


def triangle(length: int) -> int:
    """Pairs of a causal mask."""
    return length * (length + 1) // 2


# --- programs -------------------------------------------------------------------------------------


def causal(query: torch.Tensor, key: torch.Tensor, case: Case, *_: torch.Tensor) -> torch.Tensor:
    """No later key."""
    return key <= query


def window(query: torch.Tensor, key: torch.Tensor, case: Case, *_: torch.Tensor) -> torch.Tensor:
    """Only keys less than `size` positions before the query."""
    return (key <= query) & (query - key < case.size)


def chunk(query: torch.Tensor, key: torch.Tensor, case: Case, *_: torch.Tensor) -> torch.Tensor:
    """Only keys with the same position // size."""
    return (key <= query) & (query // case.size == key // case.size)


def padding(
    query: torch.Tensor, key: torch.Tensor, case: Case, valid: torch.Tensor
) -> torch.Tensor:
    """valid: Transformers' attention_mask, [B, L]."""
    return (key <= query) & valid[:, None, None, :]


def packed(
    query: torch.Tensor, key: torch.Tensor, case: Case, numbers: torch.Tensor
) -> torch.Tensor:
    """numbers: of the sequence at each position, [B, L]."""
    return (key <= query) & (numbers[:, None, :, None] == numbers[:, None, None, :])


def decode(
    query: torch.Tensor, key: torch.Tensor, case: Case, filled: torch.Tensor
) -> torch.Tensor:
    """filled: how many keys the cache held before this step; only the device knows."""
    return key <= query + filled


MASKS: Mapping[str, Callable[..., torch.Tensor] | None] = {
    "none": None,
    **{made.__name__: made for made in (causal, window, chunk, padding, packed, decode)},
}
"""From positions, query [1, 1, S, 1] and key [1, 1, 1, L], to what is seen."""


def mask_of(
    case: Case, q: torch.Tensor, k: torch.Tensor, *operands: torch.Tensor
) -> torch.Tensor | None:
    """[B, 1, S, L], True where a query sees a key; None where it sees them all."""
    shows = MASKS[case.mask]
    if shows is None:
        return None
    query = torch.arange(q.shape[2], device=q.device)[None, None, :, None]
    key = torch.arange(k.shape[2], device=q.device)[None, None, None, :]
    return shows(query, key, case, *operands).expand(q.shape[0], -1, -1, -1)


def repeat_kv(x: torch.Tensor, groups: int) -> torch.Tensor:
    """As Transformers does."""
    if groups == 1:
        return x
    batch, heads, length, width = x.shape
    x = x[:, :, None].expand(batch, heads, groups, length, width)
    return x.reshape(batch, heads * groups, length, width)


def program(case: Case) -> Program:
    """The attention of that case, a function of its `inputs`."""

    def attend(
        q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *operands: torch.Tensor
    ) -> torch.Tensor:
        mask = mask_of(case, q, k, *operands)
        k, v = repeat_kv(k, case.groups), repeat_kv(v, case.groups)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=case.scale)

    return attend


# --- shapes ---------------------------------------------------------------------------------------


def prefill(title: str, mask: str, length: int, **shape: Any) -> list[Case]:
    """Forward, and forward and backward."""
    forward = Case(title, mask, queries=length, keys=length, **shape)
    return [forward, dataclasses.replace(forward, title=f"{title} training", train=True)]


def gpu_cases() -> list[Case]:
    """bfloat16: the prefill of flash attention's papers, Llama 3 8B, masks, decoding."""
    found: list[Case] = []
    wide = {"batch": 4, "heads": 32, "kv_heads": 32, "width": 128}
    llama = {"heads": 32, "kv_heads": 8, "width": 128}
    for length, mask in itertools.product((1024, 2048, 4096, 8192, 16384), ("causal", "none")):
        title = "causal" if mask == "causal" else "no mask"
        found += prefill(f"{title} 4x{length}", mask, length, **wide)
    for batch, length in ((4, 2048), (1, 8192)):
        found += prefill(f"llama causal {batch}x{length}", "causal", length, batch=batch, **llama)
    found += prefill("window 4096 1x16384", "window", 16384, size=4096, batch=1, **llama)
    found += prefill("padded 4x4096", "padding", 4096, **wide)
    found += prefill("packed 1x8192", "packed", 8192, batch=1, **llama)
    for batch, keys, groups in itertools.product((1, 8, 64), (512, 4096, 32768), (1, 4, 8)):
        found.append(decoding(batch, keys, keys, 32, groups, 128, torch.bfloat16))
    found.append(decoding(8, 4096, 32768, 32, 4, 128, torch.bfloat16))
    return found


def decoding(
    batch: int, seen: int, keys: int, heads: int, groups: int, width: int, dtype: torch.dtype
) -> Case:
    """One query that sees so many keys of a static cache."""
    cache = f"{seen}" if seen == keys else f"{seen} of {keys}"
    return Case(
        f"decode {batch}x{cache} groups {groups}",
        "decode",
        batch=batch,
        heads=heads,
        kv_heads=heads // groups,
        width=width,
        queries=1,
        keys=keys,
        filled=seen - 1,
        dtype=dtype,
    )


def cpu_cases() -> list[Case]:
    """float32, small enough for two cores."""
    few = {"heads": 8, "kv_heads": 2, "width": 64, "dtype": torch.float32}
    found: list[Case] = []
    for length in (1024, 2048, 4096):
        found += prefill(f"causal 1x{length}", "causal", length, batch=1, **few)
    found += prefill("window 1024 1x4096", "window", 4096, size=1024, batch=1, **few)
    found.append(prefill("chunk 1024 1x4096", "chunk", 4096, size=1024, batch=1, **few)[0])
    found.append(prefill("padded 2x1024", "padding", 1024, batch=2, **few)[0])
    found.append(decoding(1, 4096, 4096, 8, 4, 64, torch.float32))
    return found
