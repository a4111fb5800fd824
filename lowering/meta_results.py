"""What torch calls give on meta tensors, each kind of call worked out once.

The spellings of a fusion repeat each other: the same calls on tensors of the same shapes and
dtypes, thousands of times. To work out a result takes torch some 100 microseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch


class Kind(NamedTuple):
    """All there is to a meta tensor."""

    shape: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype

    def made(self) -> torch.Tensor:
        return torch.empty_strided(self.shape, self.stride, dtype=self.dtype, device="meta")


class MetaResults:
    """Results by function and kinds of its arguments. For functions that write to no argument."""

    def __init__(self) -> None:
        self._known: dict[Any, Kind] = {}

    def of(
        self, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Any:
        """What the function returns, or a tensor like it. Raises what the function raises."""
        key = function, kind(args), kind(tuple(kwargs.items()))
        known = self._known.get(key)
        if known is not None:
            return known.made()
        result = function(*args, **kwargs)
        if type(result) is torch.Tensor:
            self._known[key] = kind(result)
        return result


def kind(argument: Any) -> Any:
    """Equal and hashable for arguments that give equal results."""
    if isinstance(argument, torch.Tensor):
        return Kind(argument.shape, argument.stride(), argument.dtype)
    if isinstance(argument, (tuple, list)):
        return tuple(map(kind, argument))
    if isinstance(argument, slice):
        return "slice", argument.start, argument.stop, argument.step
    return type(argument), argument  # 1, 1.0 and True are equal, and promote differently
