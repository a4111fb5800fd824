"""RMSNorm as people write it, and numbers for it: what many tests put something around."""

from __future__ import annotations

import torch
from torch import Tensor


def norm(x: Tensor, weight: Tensor, eps: float = 1e-6) -> Tensor:
    """weight * x / rms(x) over the last dimension, in x's own precision."""
    return weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps))


def x_and_more(*shape: int) -> tuple[Tensor, Tensor, Tensor]:
    """x and another tensor of this shape, [4, 6, 32] unless given, and a weight in [0.5, 1.5)."""
    generator = torch.Generator().manual_seed(0)
    x, other = (torch.randn(shape or (4, 6, 32), generator=generator) for _ in range(2))
    return x, other, torch.rand(x.shape[-1:], generator=generator) + 0.5
