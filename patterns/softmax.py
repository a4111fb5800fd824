"""Softmax over the last dimension, outside attention (routers, samplers)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from tile_backend.lowering.fusion import Fusion, Gradient, Op, Run, Shape, Spelling, Tensor, same_as


def softmax(x: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
    """exp(x - max) / sum over the last dimension of x [..., D], in float32.

    Result: `dtype`, or x's dtype where it is None.
    """
    return F.softmax(x.float(), dim=-1).to(dtype or x.dtype)


def outputs(x: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
    return torch.empty_like(x, dtype=dtype or x.dtype)


def softmax_grad(dout: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """The gradient of x: y * (dout - sum(dout * y)) with y = softmax(x), [..., D], in float32."""
    found, slope = F.softmax(x.float(), dim=-1), dout.float()
    return (found * (slope - (slope * found).sum(-1, keepdim=True))).to(x.dtype)


def applies(arguments: Mapping[str, Any], needed: Sequence[str]) -> bool:
    """Always: there is one argument."""
    return True


def backward(
    run: Run,
    arguments: Mapping[str, Any],
    results: Sequence[torch.Tensor],
    cotangents: Sequence[torch.Tensor],
    needed: Sequence[str],
) -> dict[str, torch.Tensor | None]:
    """See Gradient. From x, not from the result: as many bytes, and not rounded."""
    return {"x": run("softmax_grad", dout=cotangents[0], x=arguments["x"])}


def functional(x: Any) -> Any:
    return F.softmax(x, dim=-1)


def to_float32(x: Any) -> Any:
    return F.softmax(x, dim=-1, dtype=torch.float32)


def other_dim(x: Any) -> Any:
    """the softmax is over the first dimension, not the last."""
    return F.softmax(x, dim=0)


def logarithm(x: Any) -> Any:
    """it is a log-softmax."""
    return F.log_softmax(x, dim=-1)


FUSION = Fusion(
    name="softmax",
    summary="softmax over the last dimension, outside attention",
    ops=(
        Op(
            "softmax",
            "(Tensor x, ScalarType? dtype=None) -> Tensor",
            softmax,
            outputs,
            gradient=Gradient(applies, backward),
            stands_for=("_softmax",),
        ),
        Op("softmax_grad", "(Tensor dout, Tensor x) -> Tensor", softmax_grad, same_as("x")),
    ),
    holes={"x": Tensor("... D")},
    spellings=(
        Spelling(functional),
        Spelling(to_float32, attributes={"dtype": torch.float32}),
    ),
    near_misses=(other_dim, logarithm),
    anchors=("softmax", "log_softmax"),
    priority=0,
    bench=(Shape("router of qwen3-30b-a3b", {"x": (8192, 128)}),),
)
