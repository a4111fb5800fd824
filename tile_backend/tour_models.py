"""The small modules of `python -m tile_backend walkthrough FUSION`, as a person writes them.

`EXAMPLES` has one for each built-in fusion, by name: a function that returns a module and its
inputs, small enough for the interpreter, in bfloat16, whose casts make the stages interesting.
A fusion that is not here is toured as its own first spelling (see tour_examples).
"""

# mypy: disable-error-code="no-any-return"
# A person who writes a module does not say that a layer returns a tensor.

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RMSNorm(nn.Module):
    """As in Llama: rounded before the weight."""

    def __init__(self, width: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * (wide * scale).to(x.dtype)


class Residual(nn.Module):
    """The residual add of a layer, and the norm after it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = RMSNorm(width)

    def forward(self, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        total = residual + x
        return self.norm(total), total


class LayerNorm(nn.Module):
    """Written by hand, rounded before weight and bias."""

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        centred = wide - wide.mean(-1, keepdim=True)
        unit = centred * torch.rsqrt((centred * centred).mean(-1, keepdim=True) + self.eps)
        return self.weight * unit.to(x.dtype) + self.bias


class SwiGLU(nn.Module):
    """Gate and up from one product, as in Phi-3."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gate_up = nn.Linear(width, 4 * width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, -1)
        return up * F.silu(gate)


class GeGLU(nn.Module):
    """The same with gelu, as in Gemma."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gate_up = nn.Linear(width, 4 * width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, -1)
        return F.gelu(gate, approximate="tanh") * up


class Rotary(nn.Module):
    """q and k turned by the same angles."""

    def forward(self, q: Tensor, k: Tensor, angles: Tensor) -> tuple[Tensor, Tensor]:
        cos, sin = angles.cos().to(q.dtype), angles.sin().to(q.dtype)
        return self.turned(q, cos, sin), self.turned(k, cos, sin)

    def turned(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        first, second = x.chunk(2, -1)
        return x * cos + torch.cat((-second, first), -1) * sin


class Router(nn.Module):
    """The probabilities of some experts."""

    def __init__(self, width: int, experts: int) -> None:
        super().__init__()
        self.score = nn.Linear(width, experts, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(self.score(x), -1, dtype=torch.float32)


class Attention(nn.Module):
    """Causal, with two query heads for each key head; written out."""

    def __init__(self, width: int, heads: int, groups: int) -> None:
        super().__init__()
        self.groups, self.head = groups, width // heads
        self.q = nn.Linear(width, width, bias=False)
        self.kv = nn.Linear(width, 2 * width // groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        q = self.q(x).unflatten(-1, (-1, self.head)).transpose(1, 2)
        k, v = self.kv(x).unflatten(-1, (2, -1, self.head)).permute(2, 0, 3, 1, 4)
        k, v = (t.repeat_interleave(self.groups, dim=1) for t in (k, v))
        position = torch.arange(x.shape[1], device=x.device)
        scores = q @ k.transpose(-1, -2) / self.head**0.5
        scores = scores.masked_fill(position > position[:, None], float("-inf"))
        return F.softmax(scores, -1, dtype=torch.float32).to(v.dtype) @ v


class Loss(nn.Module):
    """Of given logits."""

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits.float().flatten(0, 1), labels.flatten())


class Head(nn.Module):
    """The last layer of a language model, and its loss."""

    def __init__(self, width: int, words: int) -> None:
        super().__init__()
        self.words = nn.Linear(width, words, bias=False)

    def forward(self, hidden: Tensor, labels: Tensor) -> Tensor:
        logits = self.words(hidden).float()
        return F.cross_entropy(logits.flatten(0, 1), labels.flatten())


def normal(*shape: int) -> Tensor:
    """Random numbers."""
    return torch.randn(shape, dtype=torch.bfloat16)


def labels() -> Tensor:
    """A word for each token."""
    return torch.randint(WORDS, (2, 16))


WIDTH, WORDS = 64, 512
EXAMPLES: dict[str, Callable[[], tuple[nn.Module, tuple[Any, ...]]]] = {
    "add_rms_norm": lambda: (Residual(WIDTH), (normal(2, 16, WIDTH), normal(2, 16, WIDTH))),
    "attention": lambda: (Attention(WIDTH, 4, 2), (normal(2, 16, WIDTH),)),
    "cross_entropy": lambda: (Loss(), (normal(2, 16, WORDS), labels())),
    "gelu_mul": lambda: (GeGLU(WIDTH), (normal(2, 16, WIDTH),)),
    "layer_norm": lambda: (LayerNorm(WIDTH), (normal(2, 16, WIDTH),)),
    "linear_cross_entropy": lambda: (Head(WIDTH, WORDS), (normal(2, 16, WIDTH), labels())),
    "rms_norm": lambda: (RMSNorm(WIDTH), (normal(2, 16, WIDTH),)),
    "rotary": lambda: (
        Rotary(),
        (normal(2, 4, 16, 32), normal(2, 2, 16, 32), torch.randn(1, 1, 16, 32)),
    ),
    "silu_mul": lambda: (SwiGLU(WIDTH), (normal(2, 16, WIDTH),)),
    "softmax": lambda: (Router(WIDTH, 8), (normal(2, 16, WIDTH),)),
}
