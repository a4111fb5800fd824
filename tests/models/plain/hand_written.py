"""A decoder that calls no ready-made layer: every norm, gate, rotary and attention is spelt out.

`torch.var(unbiased=False)`, addcmul, pow(-0.5), 1 / torch.sqrt, x * sigmoid(x), `.mT`, torch.split,
where(mask, scores, number): the spellings differ from layer to layer, the mathematics does not.
"""

from __future__ import annotations

import math

import torch
from torch import nn

WIDTH, HEADS, LAYERS, WORDS, LENGTH = 64, 4, 3, 128, 32
HEAD = WIDTH // HEADS


class LayerNorm(nn.Module):
    def __init__(self, spelling: int) -> None:
        super().__init__()
        self.spelling = spelling
        self.g = nn.Parameter(1.0 + 0.3 * torch.randn(WIDTH))
        self.b = nn.Parameter(0.3 * torch.randn(WIDTH))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = x.mean(-1, keepdim=True)
        if self.spelling == 0:
            var = torch.var(x, dim=-1, unbiased=False, keepdim=True)
            return (x - mean) / torch.sqrt(var + 1e-5) * self.g + self.b
        if self.spelling == 1:
            centred = x - mean
            unit = centred * (centred * centred).mean(-1, keepdim=True).add(1e-5).rsqrt()
            return torch.addcmul(self.b, unit, self.g)
        var = (x - mean).square().mean(-1, keepdim=True)
        return self.b + self.g * ((x - mean) * (var + 1e-5) ** -0.5)


class RMSNorm(nn.Module):
    def __init__(self, spelling: int) -> None:
        super().__init__()
        self.spelling = spelling
        self.g = nn.Parameter(1.0 + 0.3 * torch.randn(WIDTH))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.spelling == 0:
            return x * torch.pow(x.pow(2).mean(dim=-1, keepdim=True) + 1e-6, -0.5) * self.g
        if self.spelling == 1:
            return self.g * (x * (1.0 / torch.sqrt(1e-6 + torch.mean(x**2, -1, True))))
        return x / ((x * x).sum(-1, keepdim=True) / x.shape[-1] + 1e-6).sqrt() * self.g


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, spelling: int) -> torch.Tensor:
    if spelling == 0:
        even, odd = x[..., ::2], x[..., 1::2]
        return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2)
    if spelling == 1:
        one, two = x.chunk(2, dim=-1)
        return torch.cat([one * cos - two * sin, two * cos + one * sin], dim=-1)
    one, two = torch.split(x, x.shape[-1] // 2, dim=-1)
    full_cos, full_sin = torch.cat((cos, cos), -1), torch.cat((sin, sin), -1)
    return x * full_cos + torch.cat((-two, one), dim=-1) * full_sin


class Attention(nn.Module):
    def __init__(self, spelling: int) -> None:
        super().__init__()
        self.spelling = spelling
        self.q, self.k, self.v, self.o = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        batch, length, _ = x.shape
        shape = (batch, length, HEADS, HEAD)
        q, k, v = (layer(x).view(shape).transpose(1, 2) for layer in (self.q, self.k, self.v))
        q, k = (rotate(t, cos, sin, self.spelling) for t in (q, k))
        causal = torch.ones(length, length, dtype=torch.bool, device=x.device).tril()
        if self.spelling == 0:
            scores = torch.matmul(q / math.sqrt(HEAD), k.mT)
            scores = torch.where(causal, scores, torch.finfo(scores.dtype).min)
        elif self.spelling == 1:
            scores = torch.matmul(q, k.transpose(-2, -1)) / math.sqrt(HEAD)
            bias = torch.zeros(length, length, dtype=x.dtype, device=x.device)
            scores = scores + bias.masked_fill(~causal, float("-inf"))
        else:
            scores = (q * HEAD**-0.5) @ k.permute(0, 1, 3, 2)
            scores = scores.masked_fill(causal.logical_not(), -1e9)
        weights = torch.softmax(scores, dim=-1)
        return self.o(torch.matmul(weights, v).permute(0, 2, 1, 3).reshape(batch, length, -1))


class Gated(nn.Module):
    def __init__(self, spelling: int) -> None:
        super().__init__()
        self.spelling = spelling
        self.packed, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate, up = self.packed(x).chunk(2, -1)
        if self.spelling == 0:
            return self.down(gate * torch.sigmoid(gate) * up)
        if self.spelling == 1:
            return self.down(up * (gate * gate.sigmoid()))
        return self.down(torch.nn.functional.silu(gate).mul(up))


class Block(nn.Module):
    def __init__(self, spelling: int) -> None:
        super().__init__()
        self.before, self.after = LayerNorm(spelling), RMSNorm(spelling)
        self.attention, self.gated = Attention(spelling), Gated(spelling)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.before(x), cos, sin)
        return x + self.gated(self.after(x))


class Decoder(nn.Module):
    """tokens [B, S] int64 -> logits [B, S, WORDS]; layer i uses spelling i of everything."""

    cos: torch.Tensor
    sin: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, WIDTH)
        self.blocks = nn.ModuleList(Block(spelling) for spelling in range(LAYERS))
        self.head = nn.Linear(WIDTH, WORDS)
        theta = 10000.0 ** -(torch.arange(0, HEAD, 2) / HEAD)
        angles = torch.outer(torch.arange(LENGTH), theta)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x, length = self.words(tokens), tokens.shape[1]
        for block in self.blocks:
            x = block(x, self.cos[:length], self.sin[:length])
        return self.head(x)


def build() -> nn.Module:
    return Decoder()


def example() -> tuple[torch.Tensor, ...]:
    return (torch.randint(0, WORDS, (2, 24)),)
