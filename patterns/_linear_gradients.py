"""The gradients of a linear layer, summed over chunks of its rows.

Sums are float32 whatever the dtype, as within one product: each gradient is rounded as often as
autograd rounds it. In bfloat16 a sum of n chunks would be rounded n times, each time by up to half
a step of a partial sum, which may be larger than the result: no budget covers that.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

NAMES = ("hidden", "weight", "bias")


def kept_dtype(dtype: torch.dtype) -> torch.dtype:
    """Of a gradient until the backward multiplies it: a sum over tokens may overflow float16."""
    return torch.float32 if dtype == torch.float16 else dtype


class LinearGradients:
    """Those of hidden [N, D], weight [V, D] and bias [V], into tensors or None.

    read:  the layer's arguments.
    found: outputs by NAMES; empty where no gradient is wanted. That of hidden may have any shape.
    alone: there is one chunk at most.
    """

    def __init__(
        self, read: Mapping[str, Any], found: Sequence[torch.Tensor | None], alone: bool
    ) -> None:
        named = dict(zip(NAMES, found, strict=False))
        asked = read["gradients"].split(",") if found else []
        self.wanted = {n: out for n in asked if n and (out := named.get(n)) is not None}
        self.weight = read["weight"]
        self.one = torch.ones((), dtype=torch.float32, device=self.weight.device)
        self.sums = {n: out for n, out in self.wanted.items() if n != "hidden"}
        if "weight" in self.sums:
            exact = alone or self.sums["weight"].dtype == torch.float32
            self.sums["weight"] = self.wanted["weight"] if exact else wide(self.wanted["weight"])
            self.sums["weight"].zero_()
        if "bias" in self.sums:
            self.sums["bias"] = wide(self.wanted["bias"]).zero_()
        if "hidden" in self.wanted:
            out = self.wanted["hidden"]
            self.rows = out.view(math.prod(out.shape[:-1]), out.shape[-1])

    def add(self, slope: torch.Tensor, hidden: torch.Tensor, at: slice) -> None:
        """slope: the gradient of the logits [n, V] of the rows `at`, which read hidden [n, D]."""
        if "hidden" in self.wanted:
            torch.mm(slope, self.weight, out=self.rows[at])
        if "weight" in self.wanted:
            add_product(self.sums["weight"], slope.t(), hidden)
        if "bias" in self.wanted:
            self.sums["bias"] += slope.sum(0, dtype=torch.float32)

    def finish(self) -> None:
        """Round the sums to the dtype of the outputs."""
        for name, total in self.sums.items():
            if total is not self.wanted[name]:
                self.wanted[name].copy_(total)


def wide(out: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(out, dtype=torch.float32)


def add_product(total: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> None:
    """total += a @ b, in total's dtype, whatever that of a and b."""
    if total.dtype == a.dtype:
        total.addmm_(a, b)
    elif total.is_cuda:
        torch.addmm(total, a, b, out_dtype=torch.float32, out=total)
    else:
        total.addmm_(a.float(), b.float())
