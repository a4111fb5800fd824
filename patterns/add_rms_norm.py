"""Residual add and RMSNorm in one pass over the data.

pre-norm   h = x + residual; y = norm(h)    both y and h are results (Llama and most others)
post-norm  y = residual + norm(x)           (OLMo 2, and the branch ends of Gemma 3)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from tile_backend.lowering.fusion import Fusion, Op, Shape, Spelling, Tensor
from tile_backend.patterns import _norm_gradient
from tile_backend.patterns import rms_norm as plain


def add_rms_norm(
    x: torch.Tensor,
    residual: torch.Tensor,
    weight: torch.Tensor | None,
    eps: float,
    offset: float = 0.0,
    rounding: str = "once",
) -> tuple[torch.Tensor, torch.Tensor]:
    """(rms_norm(x + residual, ...), x + residual); x and residual have one shape [..., D]."""
    total = x + residual
    return plain.rms_norm(total, weight, eps, offset, rounding), total


def rms_norm_add(
    x: torch.Tensor,
    residual: torch.Tensor,
    weight: torch.Tensor | None,
    eps: float,
    offset: float = 0.0,
    rounding: str = "once",
) -> torch.Tensor:
    """residual + rms_norm(x, ...); x and residual have one shape [..., D]."""
    return residual + plain.rms_norm(x, weight, eps, offset, rounding)


def add_outputs(
    x: torch.Tensor,
    residual: torch.Tensor,
    weight: torch.Tensor | None,
    eps: float,
    offset: float,
    rounding: str,
) -> tuple[torch.Tensor, torch.Tensor]:
    total = torch.empty_like(x, dtype=torch.promote_types(x.dtype, residual.dtype))
    return plain.outputs(total, weight, eps, offset, rounding), total


def post_outputs(
    x: torch.Tensor,
    residual: torch.Tensor,
    weight: torch.Tensor | None,
    eps: float,
    offset: float,
    rounding: str,
) -> torch.Tensor:
    normed = plain.outputs(x, weight, eps, offset, rounding)
    return torch.empty_like(residual, dtype=torch.promote_types(normed.dtype, residual.dtype))


def before(norm: Callable[..., Any]) -> Callable[..., Any]:
    def spelling(x: Any, residual: Any, weight: Any, eps: Any) -> Any:
        total = x + residual
        return norm(total, weight, eps), total

    return spelling


def after(norm: Callable[..., Any]) -> Callable[..., Any]:
    def spelling(x: Any, residual: Any, weight: Any, eps: Any) -> Any:
        return residual + norm(x, weight, eps)

    return spelling


def eps_outside_root(x: Any, residual: Any, weight: Any, eps: Any) -> Any:
    """epsilon is added after the root. Fix: add it to the mean of squares."""
    total = x + residual
    return plain.eps_outside_root(total, weight, eps), total


ARGUMENTS = (
    "(Tensor x, Tensor residual, Tensor? weight, float eps, float offset=0.0, str rounding='once')"
)

FUSION = Fusion(
    name="add_rms_norm",
    summary="residual add + RMSNorm: norm(x + residual) with the sum, or residual + norm(x)",
    ops=(
        Op(
            "add_rms_norm",
            f"{ARGUMENTS} -> (Tensor, Tensor)",
            add_rms_norm,
            add_outputs,
            gradient=_norm_gradient.ADD_RMS_NORM,
        ),
        Op(
            "rms_norm_add",
            f"{ARGUMENTS} -> Tensor",
            rms_norm_add,
            post_outputs,
            gradient=_norm_gradient.RMS_NORM_ADD,
        ),
        _norm_gradient.RMS_NORM_GRAD,
    ),
    holes={**plain.HOLES, "residual": Tensor("... D")},
    spellings=tuple(
        Spelling(wrap(s.function), op, s.attributes, name=f"{order}_{s.title}")
        for wrap, op, order in ((before, "add_rms_norm", "pre"), (after, "rms_norm_add", "post"))
        for s in plain.SPELLINGS
    ),
    near_misses=(eps_outside_root,),
    alike=(("x", "residual"),),
    anchors=plain.ANCHORS,
    priority=20,
    bench=(
        Shape("llama-3-8b decode", {"x": (1, 4096), "residual": (1, 4096), "weight": (4096,)}),
        Shape(
            "llama-3-8b prefill", {"x": (8192, 4096), "residual": (8192, 4096), "weight": (4096,)}
        ),
    ),
)
