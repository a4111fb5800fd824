"""An encoder in the style of T5 1.1: relative position bias, unscaled attention, gated GELU.

One norm divides by a square root, the other multiplies by its reciprocal.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

WIDTH, HEADS, LAYERS, WORDS, LENGTH = 64, 4, 2, 128, 32


class ScaleNorm(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(1.0 + 0.3 * torch.randn(dim))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        variance = hidden.to(torch.float32).pow(2).mean(-1, keepdim=True)
        hidden = hidden * torch.rsqrt(variance + 1e-6)
        if self.weight.dtype in (torch.float16, torch.bfloat16):
            hidden = hidden.to(self.weight.dtype)
        return self.weight * hidden


class DividingNorm(ScaleNorm):
    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        wide = hidden.float()
        unit = wide / torch.sqrt(wide.square().mean(dim=-1, keepdim=True) + 1e-6)
        return self.weight * unit.to(hidden.dtype)


class SelfAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(4))

    def forward(self, x: torch.Tensor, position_bias: torch.Tensor) -> torch.Tensor:
        batch = x.shape[0]

        def heads(states: torch.Tensor) -> torch.Tensor:
            return states.view(batch, -1, HEADS, WIDTH // HEADS).transpose(1, 2)

        query, key, value = heads(self.q(x)), heads(self.k(x)), heads(self.v(x))
        scores = torch.matmul(query, key.transpose(3, 2))
        scores += position_bias
        weights = F.softmax(scores.float(), dim=-1).type_as(scores)
        context = torch.matmul(weights, value)
        return self.o(context.transpose(1, 2).contiguous().view(batch, -1, WIDTH))


class GatedFeedForward(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wi_0 = nn.Linear(WIDTH, 2 * WIDTH, bias=False)
        self.wi_1 = nn.Linear(WIDTH, 2 * WIDTH, bias=False)
        self.wo = nn.Linear(2 * WIDTH, WIDTH, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gelu = F.gelu(self.wi_0(x), approximate="tanh")
        return self.wo(gelu * self.wi_1(x))


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.final = ScaleNorm(WIDTH), DividingNorm(WIDTH)
        self.attention, self.feed_forward = SelfAttention(), GatedFeedForward()

    def forward(self, x: torch.Tensor, position_bias: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.norm(x), position_bias)
        return x + self.feed_forward(self.final(x))


class Encoder(nn.Module):
    """tokens [B, S] int64 -> hidden states [B, S, WIDTH]; the layers share one bias."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, WIDTH)
        self.relative = nn.Embedding(2 * LENGTH, HEADS)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.norm = ScaleNorm(WIDTH)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        place = torch.arange(tokens.shape[1], device=tokens.device)
        distance = place[None, :] - place[:, None] + LENGTH
        position_bias = self.relative(distance).permute(2, 0, 1).unsqueeze(0)
        x = self.words(tokens)
        for layer in self.layers:
            x = layer(x, position_bias)
        return self.norm(x)


def build() -> nn.Module:
    return Encoder()


def example() -> tuple[torch.Tensor, ...]:
    return (torch.randint(0, WORDS, (2, 24)),)
