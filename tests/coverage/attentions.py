"""Attention: SDPA calls, and softmax weights that meet a matrix product."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from tests.coverage.call import Call, Category, caller
from tests.coverage.tags import Tags
from tests.coverage.whereabouts import Whereabouts

PRODUCTS = frozenset("matmul bmm __matmul__ baddbmm einsum".split())


class Attentions:
    def __init__(self, where: Whereabouts, calls: list[Call]) -> None:
        self.where, self.calls, self.tags = where, calls, Tags()

    def seen(self, function: Callable[..., Any], arguments: Sequence[Any], result: Any) -> None:
        name = getattr(function, "__name__", "")
        self.tags.carry(name, arguments, result)
        if name == "scaled_dot_product_attention":
            self.add(Category.SDPA)
        elif name == "softmax":
            self.tags.put(result, "weights")
        elif name in PRODUCTS:
            factors = [a for a in arguments if isinstance(a, torch.Tensor) and a.dim() > 2]
            if len(factors) > 1 and self.tags.tagged(factors[:1], "weights"):
                self.add(Category.EAGER_ATTENTION)

    def add(self, category: Category) -> None:
        self.calls.append(Call(category, self.where.path, self.where.owner, caller()))
