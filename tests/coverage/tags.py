"""Follows values through casts and views by tagging tensors while a model runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch

CARRIERS = frozenset(
    "to float half bfloat16 double type type_as contiguous reshape view flatten unflatten "
    "transpose permute squeeze unsqueeze dropout __getitem__ clone movedim expand".split()
)
"""Functions whose result means the same as their first argument."""


class Tags:
    """Tensor -> word. Tagged tensors are kept alive, so that their identity stays unique."""

    def __init__(self) -> None:
        self.words: dict[int, tuple[torch.Tensor, str]] = {}

    def put(self, value: Any, word: str) -> None:
        if isinstance(value, torch.Tensor):
            self.words[id(value)] = value, word

    def get(self, value: Any) -> str:
        return self.words[id(value)][1] if id(value) in self.words else ""

    def carry(self, name: str, arguments: Sequence[Any], result: Any) -> None:
        if name in CARRIERS and arguments and self.get(arguments[0]):
            self.put(result, self.get(arguments[0]))

    def tagged(self, values: Iterable[Any], word: str) -> list[Any]:
        return [value for value in values if self.get(value) == word]
