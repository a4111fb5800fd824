"""A decoder in the style of Meta's Llama release and gpt-fast: complex rotary, packed projections.

`(x * x).mean`, view_as_complex, one matrix for q, k and v, w1/w2/w3, K and V repeated for SDPA.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

WIDTH, HEADS, KV_HEADS, LAYERS, WORDS, LENGTH = 64, 4, 2, 2, 128, 32


def frequencies(width: int, length: int, base: float = 10000.0) -> torch.Tensor:
    """exp(i * position * theta) as complex64 [length, width / 2]."""
    theta = 1.0 / (base ** (torch.arange(0, width, 2)[: width // 2].float() / width))
    angles = torch.outer(torch.arange(length).float(), theta)
    return torch.polar(torch.ones_like(angles), angles)


def rotate(x: torch.Tensor, freqs_cis: torch.Tensor) -> torch.Tensor:
    pairs = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2))
    freqs_cis = freqs_cis.view(1, x.size(1), 1, x.size(3) // 2)
    return torch.view_as_real(pairs * freqs_cis).flatten(3).type_as(x)


class RMSNorm(nn.Module):
    def __init__(self, dim: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(1.0 + 0.3 * torch.randn(dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = x.float()
        normed = wide * torch.rsqrt((wide * wide).mean(-1, keepdim=True) + self.eps)
        return normed.type_as(x) * self.weight


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.width = WIDTH // HEADS
        self.wqkv = nn.Linear(WIDTH, (HEADS + 2 * KV_HEADS) * self.width, bias=False)
        self.wo = nn.Linear(WIDTH, WIDTH, bias=False)

    def forward(self, x: torch.Tensor, freqs_cis: torch.Tensor) -> torch.Tensor:
        batch, length, _ = x.shape
        kv_size = KV_HEADS * self.width
        q, k, v = self.wqkv(x).split([WIDTH, kv_size, kv_size], dim=-1)
        q = rotate(q.view(batch, length, HEADS, self.width), freqs_cis)
        k = rotate(k.view(batch, length, KV_HEADS, self.width), freqs_cis)
        v = v.view(batch, length, KV_HEADS, self.width)
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        k = k.repeat_interleave(HEADS // KV_HEADS, dim=1)
        v = v.repeat_interleave(HEADS // KV_HEADS, dim=1)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.wo(y.transpose(1, 2).contiguous().view(batch, length, WIDTH))


class FeedForward(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w1 = nn.Linear(WIDTH, 2 * WIDTH, bias=False)
        self.w2 = nn.Linear(2 * WIDTH, WIDTH, bias=False)
        self.w3 = nn.Linear(WIDTH, 2 * WIDTH, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention, self.feed_forward = Attention(), FeedForward()
        self.attention_norm, self.ffn_norm = RMSNorm(WIDTH), RMSNorm(WIDTH)

    def forward(self, x: torch.Tensor, freqs_cis: torch.Tensor) -> torch.Tensor:
        h = x + self.attention(self.attention_norm(x), freqs_cis)
        return h + self.feed_forward(self.ffn_norm(h))


class Transformer(nn.Module):
    """tokens [B, S] int64 -> logits [B, S, WORDS]."""

    freqs_cis: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.tok_embeddings = nn.Embedding(WORDS, WIDTH)
        self.layers = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm = RMSNorm(WIDTH)
        self.output = nn.Linear(WIDTH, WORDS, bias=False)
        self.register_buffer("freqs_cis", frequencies(WIDTH // HEADS, LENGTH), persistent=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        h = self.tok_embeddings(tokens)
        freqs_cis = self.freqs_cis[: tokens.size(1)]
        for layer in self.layers:
            h = layer(h, freqs_cis)
        return self.output(self.norm(h))


def build() -> nn.Module:
    return Transformer()


def example() -> tuple[torch.Tensor, ...]:
    return (torch.randint(0, WORDS, (2, 24)),)
