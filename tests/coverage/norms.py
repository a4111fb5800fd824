"""Normalisation calls: modules named after one, and F.layer_norm or F.rms_norm outside of them.

A module that contains other norms is a container; its parts are counted. Batch, group and instance
norms reduce over other dimensions and belong to no fusion here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import torch

from tests.coverage.call import Call, Category, caller
from tests.coverage.whereabouts import Whereabouts

NAMED = re.compile(r"norm(gated|1p|perhead)?$", re.IGNORECASE)
OTHER = re.compile(r"batch|group|instance|local|weight", re.IGNORECASE)
FUNCTIONS = ("layer_norm", "rms_norm")


def is_norm(module: torch.nn.Module) -> bool:
    name = type(module).__name__
    return bool(NAMED.search(name)) and not OTHER.search(name)


def is_leaf_norm(module: torch.nn.Module) -> bool:
    return is_norm(module) and not any(is_norm(m) for m in module.modules() if m is not module)


class Norms:
    """Listens to functions; `entered` is called for each module call."""

    def __init__(self, where: Whereabouts, calls: list[Call]) -> None:
        self.where, self.calls = where, calls

    def entered(self, module: torch.nn.Module) -> None:
        if is_leaf_norm(module):
            code = type(module).forward.__code__
            source = f"{code.co_filename.rsplit('/', 1)[-1]}:{code.co_firstlineno}"
            self.add(type(module).__name__, source)

    def seen(self, function: Callable[..., Any], arguments: Sequence[Any], result: Any) -> None:
        if getattr(function, "__name__", "") not in FUNCTIONS:
            return
        if not any(is_leaf_norm(module) for module in self.where.stack):
            self.add(self.where.owner, caller())

    def add(self, owner: str, source: str) -> None:
        self.calls.append(Call(Category.NORM, self.where.path, owner, source))
