"""A decoder in the style of GPT-J and PaLM: parallel residual, partial rotary, multi-query.

One fused input projection feeds attention and a SwiGLU; cos and sin are repeated per pair.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

WIDTH, HEADS, HEAD, ROTARY, LAYERS, WORDS = 64, 4, 16, 8, 2, 128
INNER = 2 * WIDTH


def rotate_every_two(x: torch.Tensor) -> torch.Tensor:
    x1 = x[:, :, :, ::2]
    x2 = x[:, :, :, 1::2]
    return torch.stack((-x2, x1), dim=-1).flatten(-2)


def rotary(x: torch.Tensor, sin: torch.Tensor, cos: torch.Tensor) -> torch.Tensor:
    return (x * cos) + (rotate_every_two(x) * sin)


def tables(length: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """sin and cos, each angle twice: [1, 1, length, ROTARY] float32."""
    theta = 1.0 / (10000 ** (torch.arange(0, ROTARY, 2, device=device) / ROTARY))
    angles = torch.einsum("i,j->ij", torch.arange(length, device=device).float(), theta)
    sin, cos = (t.repeat_interleave(2, 1)[None, None] for t in (angles.sin(), angles.cos()))
    return sin, cos


class RMSNorm(nn.Module):
    """The length of x divided by sqrt(dim) is its root mean square; clamped, not offset."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.scale, self.eps = dim**-0.5, 1e-8
        self.g = nn.Parameter(1.0 + 0.3 * torch.randn(dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        norm = x.norm(dim=-1, keepdim=True) * self.scale
        return x / norm.clamp(min=self.eps) * self.g


class ParallelBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.sizes = (HEADS * HEAD, HEAD, HEAD, 2 * INNER)
        self.fused = nn.Linear(WIDTH, sum(self.sizes), bias=False)
        self.attn_out = nn.Linear(HEADS * HEAD, WIDTH, bias=False)
        self.ff_out = nn.Linear(INNER, WIDTH, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, _ = x.shape
        q, k, v, ff = self.fused(self.norm(x)).split(self.sizes, dim=-1)
        q = q.view(batch, length, HEADS, HEAD).transpose(1, 2)
        k, v = (t.unsqueeze(1) for t in (k, v))
        sin, cos = (t.type_as(x) for t in tables(length, x.device))
        q = torch.cat([rotary(q[..., :ROTARY], sin, cos), q[..., ROTARY:]], dim=-1)
        k = torch.cat([rotary(k[..., :ROTARY], sin, cos), k[..., ROTARY:]], dim=-1)
        k, v = (t.expand(-1, HEADS, -1, -1) for t in (k, v))
        sim = torch.matmul(q, k.transpose(-1, -2)) * HEAD**-0.5
        causal = torch.ones((length, length), device=x.device, dtype=torch.bool).triu(1)
        sim = sim.masked_fill(causal, -torch.finfo(sim.dtype).max)
        attn = (sim - sim.amax(dim=-1, keepdim=True).detach()).softmax(dim=-1)
        out = torch.matmul(attn, v).transpose(1, 2).reshape(batch, length, -1)
        value, gate = ff.chunk(2, dim=-1)
        return self.attn_out(out) + self.ff_out(F.silu(gate) * value)


class Decoder(nn.Module):
    """tokens [B, S] int64 -> logits [B, S, WORDS]."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, WIDTH)
        self.blocks = nn.ModuleList(ParallelBlock() for _ in range(LAYERS))
        self.norm = RMSNorm(WIDTH)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.words(tokens)
        for block in self.blocks:
            x = x + block(x)
        return self.norm(x) @ self.words.weight.t()


def build() -> nn.Module:
    return Decoder()


def example() -> tuple[torch.Tensor, ...]:
    return (torch.randint(0, WORDS, (2, 24)),)
