"""A bidirectional encoder in the style of lucidrains: einsum attention, GEGLU, learned gamma.

Images are cut into patches with view and permute (what einops emits); q is scaled before the
product.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

WIDTH, HEADS, LAYERS, CLASSES, IMAGE, PATCH = 64, 4, 2, 10, 16, 4


class LayerNorm(nn.Module):
    beta: torch.Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(1.0 + 0.3 * torch.randn(dim))
        self.register_buffer("beta", torch.zeros(dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(x, x.shape[-1:], self.gamma, self.beta)


class RMSNorm(nn.Module):
    """x / |x| * sqrt(dim) * gamma: F.normalize clamps the length, no epsilon is added."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.scale = dim**0.5
        self.gamma = nn.Parameter(1.0 + 0.3 * torch.randn(dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.normalize(x, dim=-1) * self.scale * self.gamma


class GEGLU(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x, gate = x.chunk(2, dim=-1)
        return x * F.gelu(gate)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = (WIDTH // HEADS) ** -0.5
        self.norm, self.context_norm = LayerNorm(WIDTH), RMSNorm(WIDTH)
        self.to_q = nn.Linear(WIDTH, WIDTH, bias=False)
        self.to_kv = nn.Linear(WIDTH, 2 * WIDTH, bias=False)
        self.to_out = nn.Linear(WIDTH, WIDTH, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, n, _ = x.shape
        context = self.context_norm(x)
        q, (k, v) = self.to_q(self.norm(x)), self.to_kv(context).chunk(2, dim=-1)
        q, k, v = (t.view(b, n, HEADS, -1).permute(0, 2, 1, 3) for t in (q, k, v))
        q = q * self.scale
        sim = torch.einsum("bhid,bhjd->bhij", q, k)
        attn = sim.softmax(dim=-1)
        out = torch.einsum("bhij,bhjd->bhid", attn, v)
        return self.to_out(out.permute(0, 2, 1, 3).reshape(b, n, -1))


class FeedForward(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            LayerNorm(WIDTH),
            nn.Linear(WIDTH, 4 * WIDTH, bias=False),
            GEGLU(),
            nn.Linear(2 * WIDTH, WIDTH, bias=False),
        )


class ViT(nn.Module):
    """image [B, 3, IMAGE, IMAGE] -> logits [B, CLASSES]."""

    def __init__(self) -> None:
        super().__init__()
        self.to_patch = nn.Linear(3 * PATCH * PATCH, WIDTH)
        self.position = nn.Parameter(0.1 * torch.randn((IMAGE // PATCH) ** 2, WIDTH))
        self.layers = nn.ModuleList(
            nn.ModuleList((Attention(), FeedForward())) for _ in range(LAYERS)
        )
        self.norm = LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        b, c, side, _ = image.shape
        grid = side // PATCH
        x = image.view(b, c, grid, PATCH, grid, PATCH).permute(0, 2, 4, 3, 5, 1)
        x = self.to_patch(x.reshape(b, grid * grid, -1)) + self.position
        for attention, feed_forward in self.layers:
            x = attention(x) + x
            x = feed_forward(x) + x
        return self.head(self.norm(x).mean(dim=1))


def build() -> nn.Module:
    return ViT()


def example() -> tuple[torch.Tensor, ...]:
    return (torch.randn(2, 3, IMAGE, IMAGE),)
