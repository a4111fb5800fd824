"""RMSNorm (Zhang & Sennrich, arXiv:1910.07467): x / sqrt(mean(x ** 2) + eps), optionally weighted.

The spellings differ in where a low-precision value is rounded, which is semantics (`rounding`):
  once           all in float32, rounded to x's dtype at the end (gpt-oss, OLMo 2, F.rms_norm)
  before_weight  rounded to x's dtype, then multiplied by the weight (Llama, Qwen, Mistral, T5)
  scale          the reciprocal root is rounded and x multiplied by it in x's dtype
  divided        as every_op, dividing by a root (or multiplying by 1 / root)
  every_op       no float32 at all: every step in x's dtype
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from tile_backend.lowering.fusion import Fusion, Op, Scalar, Shape, Spelling, Tensor
from tile_backend.patterns import _norm_gradient


def rms_norm(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    eps: float,
    offset: float = 0.0,
    rounding: str = "once",
) -> torch.Tensor:
    """x * rsqrt(mean(x ** 2, -1) + eps) * (offset + weight); weight None means no product.

    x [..., D], weight [D]. Result: x's dtype, but with rounding other than "once" the promotion of
    x and weight.
    """
    if rounding == "divided":
        unit = x / torch.sqrt(x.pow(2).mean(-1, keepdim=True) + eps)
        gain = weight if weight is None or not offset else weight + offset
        return unit if gain is None else unit * gain
    hidden = x if rounding == "every_op" else x.float()
    scale = torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + eps)
    unit = x * scale.to(x.dtype) if rounding == "scale" else hidden * scale
    if weight is None:
        return unit.to(x.dtype)
    if rounding == "once":
        gain = weight.float()
        return (unit * (gain + offset if offset else gain)).to(x.dtype)
    return unit.to(x.dtype) * (weight + offset if offset else weight)


def outputs(
    x: torch.Tensor, weight: torch.Tensor | None, eps: float, offset: float, rounding: str
) -> torch.Tensor:
    dtype = x.dtype
    if weight is not None and rounding != "once":
        dtype = torch.promote_types(x.dtype, weight.dtype)
    return torch.empty_like(x, dtype=dtype)


def unit_scale(hidden: Any, eps: Any) -> Any:
    return torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + eps)


def cast_after_weight(x: Any, weight: Any, eps: Any) -> Any:
    hidden = x.float()
    unit = hidden * unit_scale(hidden, eps)
    return (unit if weight is None else weight * unit).to(x.dtype)


def cast_before_weight(x: Any, weight: Any, eps: Any) -> Any:
    hidden = x.float()
    return weight * (hidden * unit_scale(hidden, eps)).to(x.dtype)


def offset_then_cast(x: Any, weight: Any, eps: Any) -> Any:
    hidden = x.float()
    return ((hidden * unit_scale(hidden, eps)) * (1.0 + weight.float())).to(x.dtype)


def cast_then_offset(x: Any, weight: Any, eps: Any) -> Any:
    hidden = x.float()
    return (hidden * unit_scale(hidden, eps)).to(x.dtype) * (1.0 + weight)


def weight_on_scale(x: Any, weight: Any, eps: Any) -> Any:
    hidden = x.float()
    return (hidden * (unit_scale(hidden, eps) * weight.float())).to(x.dtype)


def weight_on_x(x: Any, weight: Any, eps: Any) -> Any:
    hidden = x.float()
    return ((hidden * weight.float()) * unit_scale(hidden, eps)).to(x.dtype)


def rounded_scale(x: Any, weight: Any, eps: Any) -> Any:
    unit = x * unit_scale(x.float(), eps).to(x.dtype)
    return unit if weight is None else weight * unit


def every_op(x: Any, weight: Any, eps: Any) -> Any:
    unit = x * unit_scale(x, eps)
    return unit if weight is None else weight * unit


def divided(x: Any, weight: Any, eps: Any) -> Any:
    unit = x / torch.sqrt(x.pow(2).mean(-1, keepdim=True) + eps)
    return unit if weight is None else weight * unit


def multiplied_by_reciprocal(x: Any, weight: Any, eps: Any) -> Any:
    unit = x * (1.0 / torch.sqrt(x.pow(2).mean(-1, keepdim=True) + eps))
    return unit if weight is None else weight * unit


def functional(x: Any, weight: Any, eps: Any) -> Any:
    return F.rms_norm(x, (x.shape[-1],), weight, eps)


# --- must never match -----------------------------------------------------------------------------


def eps_outside_root(x: Any, weight: Any, eps: Any) -> Any:
    """epsilon is added after the root. Fix: add it to the mean of squares."""
    hidden = x.float()
    return weight * (hidden / (hidden.pow(2).mean(-1, keepdim=True).sqrt() + eps)).to(x.dtype)


def mean_over_wrong_dim(x: Any, weight: Any, eps: Any) -> Any:
    """the mean is over the first dimension, not the last."""
    hidden = x.float()
    return weight * (hidden * torch.rsqrt(hidden.pow(2).mean(0, keepdim=True) + eps)).to(x.dtype)


def fourth_power(x: Any, weight: Any, eps: Any) -> Any:
    """the mean is of fourth powers, not of squares."""
    hidden = x.float()
    return weight * (hidden * torch.rsqrt(hidden.pow(4).mean(-1, keepdim=True) + eps)).to(x.dtype)


SPELLINGS = (
    Spelling(cast_after_weight, attributes={"rounding": "once"}),
    Spelling(cast_before_weight, attributes={"rounding": "before_weight"}),
    Spelling(weight_on_scale, attributes={"rounding": "once"}),
    Spelling(weight_on_x, attributes={"rounding": "once"}),
    Spelling(offset_then_cast, attributes={"offset": 1.0, "rounding": "once"}),
    Spelling(cast_then_offset, attributes={"offset": 1.0, "rounding": "before_weight"}),
    Spelling(rounded_scale, attributes={"rounding": "scale"}),
    Spelling(every_op, attributes={"rounding": "every_op"}),
    Spelling(divided, attributes={"rounding": "divided"}),
    Spelling(multiplied_by_reciprocal, attributes={"rounding": "divided"}),
    Spelling(functional, attributes={"rounding": "once"}),
)
HOLES: dict[str, Tensor | Scalar] = {
    "x": Tensor("... D"),
    "weight": Tensor("D", optional=True, dtype="T|f32"),
    "eps": Scalar(),
}

ANCHORS = ("rsqrt/add/mean", "sqrt/mean", "sqrt/add/mean", "rms_norm")

FUSION = Fusion(
    name="rms_norm",
    summary="RMSNorm, with a weight, with 1 + weight, or with none",
    ops=(
        Op(
            "rms_norm",
            "(Tensor x, Tensor? weight, float eps, float offset=0.0, str rounding='once')"
            " -> Tensor",
            rms_norm,
            outputs,
            gradient=_norm_gradient.RMS_NORM,
        ),
        _norm_gradient.RMS_NORM_GRAD,
    ),
    holes=HOLES,
    spellings=SPELLINGS,
    near_misses=(eps_outside_root, mean_over_wrong_dim, fourth_power),
    anchors=ANCHORS,
    priority=10,
    bench=(
        Shape("llama-3-8b decode", {"x": (1, 4096), "weight": (4096,)}),
        Shape("llama-3-8b prefill", {"x": (8192, 4096), "weight": (4096,)}),
    ),
)
