"""Shapes, masks and inputs of attention in real models: what `bench.attention` times.

`attention_programs` has what is computed. Only the query-key pairs that the mask shows are work.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import torch

PRODUCTS = {False: 4, True: 14}
"""FLOPs per pair and element of a head. Forward: two products of two; the backward has five."""


@dataclasses.dataclass(frozen=True)
class Case:
    """One call. mask: one of attention_programs.MASKS. size: of a window or a chunk. filled: keys
    of the cache that hold something, before those of the queries. train: forward and backward.
    cap: soft cap of the scores; 0 without. sinks: a logit per head that no value belongs to.
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
    cap: float = 0.0
    sinks: bool = False
    dtype: torch.dtype = torch.bfloat16

    @property
    def by_steps(self) -> bool:
        """SDPA has no soft cap and no sinks: models write these out."""
        return bool(self.cap) or self.sinks

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
        """q, k, v, [B, H, S, D] of which lies as [B, S, H, D]; the sinks, [H]; what the
        mask reads. Random; the same each time. A version that forgets cap or sinks is far off: the
        cap bends most scores, and the sinks take about half of all weight.
        """
        torch.manual_seed(0)
        shapes = (
            (self.batch, self.queries, self.heads, self.width),
            *[(self.batch, self.keys, self.kv_heads, self.width)] * 2,
        )
        made = [torch.randn(s, dtype=self.dtype, device=device).transpose(1, 2) for s in shapes]
        if self.cap:
            made[0] *= self.cap / 2
        made = [x.requires_grad_(self.train) for x in made]
        if self.sinks:
            about = math.log(self.size or self.keys)
            made.append(torch.randn(self.heads, dtype=self.dtype, device=device) + about)
        return [*made, *self.operands(device)]

    @property
    def by_head(self) -> int:
        """How many of the inputs have a dimension of heads: q, k, v, and the sinks."""
        return 4 if self.sinks else 3

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
    found += written_out()
    for batch, keys, groups in itertools.product((1, 8, 64), (512, 4096, 32768), (1, 4, 8)):
        found.append(decoding(batch, keys, keys, 32, groups, 128, torch.bfloat16))
    found.append(decoding(8, 4096, 32768, 32, 4, 128, torch.bfloat16))
    return found


def written_out() -> list[Case]:
    """Soft caps and sinks, at TileGym's shapes and those of Gemma 2 9B and GPT-OSS-20B."""
    gemma = {"cap": 50.0, "heads": 8, "kv_heads": 1, "width": 256, "batch": 2}
    gemma_2 = {"cap": 50.0, "heads": 16, "kv_heads": 8, "width": 256, "batch": 1}
    gpt_oss = {"sinks": True, "heads": 64, "kv_heads": 8, "width": 64}
    eight = {"sinks": True, "heads": 8, "kv_heads": 8, "width": 64, "batch": 1}
    lengths = (512, 1024, 2048, 4096, 8192)
    found = [prefill(f"soft cap 2x{n}", "causal", n, **gemma)[0] for n in lengths]
    found += prefill("soft cap gemma 1x8192", "causal", 8192, **gemma_2)
    found += prefill("soft cap gemma window 4096 1x8192", "window", 8192, size=4096, **gemma_2)
    found.append(prefill("sinks 1x10820", "causal", 10820, **eight)[0])
    found.append(prefill("sinks gpt-oss 1x8192", "causal", 8192, batch=1, **gpt_oss)[0])
    window = {"size": 128, "batch": 1, **gpt_oss}
    found.append(prefill("sinks gpt-oss window 128 1x8192", "window", 8192, **window)[0])
    for batch in (1, 8, 64):
        made = decoding(batch, 4096, 4096, 64, 8, 64, torch.bfloat16)
        found.append(dataclasses.replace(made, title=f"sinks {made.title}", sinks=True))
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
    found += prefill("soft cap 1x1024", "causal", 1024, batch=1, cap=50.0, **few)
    found.append(prefill("sinks 1x1024", "causal", 1024, batch=1, sinks=True, **few)[0])
    return found
