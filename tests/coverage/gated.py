"""Gated activations: silu(gate) * up or gelu(gate) * up, whoever computes the two factors.

The activation may be the function, a module of `transformers.activations` that spells it out, or
gate * sigmoid(alpha * gate). A product inside a norm (a gated norm) is counted as that norm.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import torch

from tests.coverage.call import Call, Category, caller
from tests.coverage.norms import is_norm
from tests.coverage.tags import Tags
from tests.coverage.whereabouts import Whereabouts

ACTIVATIONS = frozenset(("silu", "silu_", "gelu"))
PRODUCTS = frozenset("mul mul_ multiply __mul__ __rmul__ __imul__".split())
SPELT_OUT = re.compile(r"(GELU|SiLU|Swish)\w*(Activation)?$")


class Gated:
    def __init__(self, where: Whereabouts, calls: list[Call]) -> None:
        self.where, self.calls, self.tags = where, calls, Tags()
        self.scaled_from: dict[int, Any] = {}
        self.sigmoid_of: dict[int, Any] = {}

    def left(self, module: torch.nn.Module, output: Any) -> None:
        if SPELT_OUT.search(type(module).__name__):
            self.tags.put(output, "activation")

    def seen(self, function: Callable[..., Any], arguments: Sequence[Any], result: Any) -> None:
        name = getattr(function, "__name__", "")
        self.tags.carry(name, arguments, result)
        if name in ACTIVATIONS:
            self.tags.put(result, "activation")
        elif name in ("sigmoid", "sigmoid_"):
            source = self.scaled_from.get(id(arguments[0]), arguments[0])
            self.sigmoid_of[id(result)] = source
            self.tags.put(result, "sigmoid")
        elif name in PRODUCTS and len(arguments) >= 2:
            self.product(arguments[0], arguments[1], result)

    def product(self, one: Any, two: Any, result: Any) -> None:
        if not isinstance(one, torch.Tensor) or not isinstance(two, torch.Tensor):
            source = one if isinstance(one, torch.Tensor) else two
            self.scaled_from[id(result)] = source
            self.tags.put(result, self.tags.get(source) or "scaled")
            return
        for gate, other in ((one, two), (two, one)):
            if self.tags.get(other) == "sigmoid" and self.sigmoid_of.get(id(other)) is gate:
                self.tags.put(result, "activation")
                return
        if one.shape != two.shape or not self.tags.tagged((one, two), "activation"):
            return
        if not any(is_norm(module) for module in self.where.stack):
            where = self.where
            self.calls.append(Call(Category.GATED_MLP, where.path, where.owner, caller()))
