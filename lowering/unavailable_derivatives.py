"""The derivatives that no op has, as clear errors: those of its gradient, and forward mode."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.autograd import forward_ad

LATER = (
    "is not available in this version; call the plain PyTorch function instead,"
    " or compile with TILEGYM_DISABLE=1"
)


class _Once(torch.autograd.Function):
    """A gradient that depends on its sources in a way nobody may differentiate again."""

    @staticmethod
    def forward(
        ctx: Any, name: str, gradient: torch.Tensor, *sources: torch.Tensor
    ) -> torch.Tensor:
        ctx.name = name
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, *cotangents: torch.Tensor) -> Any:
        raise NotImplementedError(
            f"torch.ops.tilegym.{ctx.name}: the derivative of its gradient (double backward)"
            f" {LATER}"
        )


def once(name: str, gradient: torch.Tensor, sources: Sequence[torch.Tensor]) -> torch.Tensor:
    """The gradient of op `name`, with a backward that raises."""
    result: torch.Tensor = _Once.apply(name, gradient, *sources)  # type: ignore[no-untyped-call]
    return result


def forward_mode(name: str) -> NotImplementedError:
    return NotImplementedError(f"torch.ops.tilegym.{name}: forward-mode differentiation {LATER}")


def refuse_tangents(name: str, args: Sequence[Any]) -> None:
    """Raise where an argument of op `name` carries a forward-mode tangent."""
    for value in args:
        if isinstance(value, torch.Tensor) and forward_ad.unpack_dual(value).tangent is not None:
            raise forward_mode(name)
