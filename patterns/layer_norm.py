"""LayerNorm (Ba et al., arXiv:1607.06450): (x - mean) / sqrt(var + eps), then weight and bias.

Weight and bias are optional. `rounding` as in RMSNorm: once, before_weight, every_op, divided. Of
words that round alike, by_hand and once (torch's own), and those with the variance by torch.var,
the derivatives differ in what infinity becomes.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from tile_backend.lowering.fusion import Fusion, Op, Scalar, Shape, Spelling, Tensor
from tile_backend.patterns import _norm_gradient

ONCE = ("once", "by_hand")
VARIANCE = "_variance"
"""Behind every_op and divided."""


def layer_norm(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    eps: float,
    rounding: str = "once",
) -> torch.Tensor:
    """(x - mean) * rsqrt(var + eps) * weight + bias over the last dimension; x [..., D].

    weight and bias broadcast against x (usually [D]). The variance is the biased one.
    """
    gains = [gain if gain is None else gain.float() for gain in (weight, bias)]
    once = rounding in ONCE
    if rounding == "once" and all(gain is None or gain.dim() == 1 for gain in gains):
        # Torch's own: its mean of a constant row is exact, so the row gives exactly the bias.
        return F.layer_norm(x.float(), x.shape[-1:], gains[0], gains[1], eps).to(x.dtype)
    kind = rounding.removesuffix(VARIANCE)
    hidden = x if kind in ("every_op", "divided") else x.float()
    centred = hidden - hidden.mean(-1, keepdim=True)
    if kind == rounding:
        shifted = centred.pow(2).mean(-1, keepdim=True) + eps
    else:
        shifted = hidden.var(-1, correction=0, keepdim=True) + eps
    unit = centred / shifted.sqrt() if kind == "divided" else centred * torch.rsqrt(shifted)
    if not once:
        unit = unit.to(x.dtype)
    if weight is not None:
        unit = unit * (weight.float() if once else weight)
    if bias is not None:
        unit = unit + (bias.float() if once else bias)
    return unit.to(x.dtype) if once else unit


def outputs(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    eps: float,
    rounding: str,
) -> torch.Tensor:
    dtype = x.dtype
    for gain in (weight, bias):
        if gain is not None and rounding not in ONCE:
            dtype = torch.promote_types(dtype, gain.dtype)
    return torch.empty_like(x, dtype=dtype)


def normalised(hidden: Any, eps: Any) -> Any:
    centred = hidden - hidden.mean(-1, keepdim=True)
    return centred * torch.rsqrt(centred.pow(2).mean(-1, keepdim=True) + eps)


def affine(unit: Any, weight: Any, bias: Any) -> Any:
    scaled = unit if weight is None else weight * unit
    return scaled if bias is None else scaled + bias


def functional(x: Any, weight: Any, bias: Any, eps: Any) -> Any:
    return F.layer_norm(x, (x.shape[-1],), weight, bias, eps)


def cast_after_affine(x: Any, weight: Any, bias: Any, eps: Any) -> Any:
    return affine(normalised(x.float(), eps), weight, bias).to(x.dtype)


def weight_on_centred(x: Any, weight: Any, bias: Any, eps: Any) -> Any:
    hidden = x.float()
    centred = hidden - hidden.mean(-1, keepdim=True)
    root = torch.rsqrt(centred.pow(2).mean(-1, keepdim=True) + eps)
    scaled = (centred * weight.float()) * root
    return (scaled if bias is None else scaled + bias.float()).to(x.dtype)


def cast_before_affine(x: Any, weight: Any, bias: Any, eps: Any) -> Any:
    return affine(normalised(x.float(), eps).to(x.dtype), weight, bias)


def every_op(x: Any, weight: Any, bias: Any, eps: Any) -> Any:
    return affine(normalised(x, eps), weight, bias)


def every_op_by_variance(x: Any, weight: Any, bias: Any, eps: Any) -> Any:
    centred = x - x.mean(-1, keepdim=True)
    return affine(centred * torch.rsqrt(x.var(-1, correction=0, keepdim=True) + eps), weight, bias)


def divided(x: Any, weight: Any, bias: Any, eps: Any) -> Any:
    centred = x - x.mean(-1, keepdim=True)
    root = torch.sqrt(centred.pow(2).mean(-1, keepdim=True) + eps)
    return affine(centred / root, weight, bias)


def divided_by_variance(x: Any, weight: Any, bias: Any, eps: Any) -> Any:
    centred = x - x.mean(-1, keepdim=True)
    root = torch.sqrt(x.var(-1, correction=0, keepdim=True) + eps)
    return affine(centred / root, weight, bias)


def divided_by_deviation(x: Any, weight: Any, bias: Any, eps: Any) -> Any:
    """epsilon is added to the standard deviation, not to the variance."""
    centred = x - x.mean(-1, keepdim=True)
    return affine(centred / (x.std(-1, keepdim=True) + eps), weight, bias)


def unbiased(x: Any, weight: Any, bias: Any, eps: Any) -> Any:
    """the variance is the unbiased one. Fix: var(unbiased=False), as LayerNorm is defined."""
    centred = x - x.mean(-1, keepdim=True)
    return affine(centred * torch.rsqrt(x.var(-1, keepdim=True) + eps), weight, bias)


FUSION = Fusion(
    name="layer_norm",
    summary="LayerNorm, F.layer_norm or written by hand",
    ops=(
        Op(
            "layer_norm",
            "(Tensor x, Tensor? weight, Tensor? bias, float eps, str rounding='once') -> Tensor",
            layer_norm,
            outputs,
            gradient=_norm_gradient.LAYER_NORM,
        ),
        _norm_gradient.LAYER_NORM_GRAD,
    ),
    holes={
        "x": Tensor("... D"),
        "weight": Tensor("D", optional=True, dtype="T|f32", any_rank=True),
        "bias": Tensor("D", optional=True, dtype="T|f32", any_rank=True),
        "eps": Scalar(),
    },
    spellings=(
        Spelling(functional, attributes={"rounding": "once"}),
        Spelling(cast_after_affine, attributes={"rounding": "by_hand"}),
        Spelling(weight_on_centred, attributes={"rounding": "by_hand"}),
        Spelling(cast_before_affine, attributes={"rounding": "before_weight"}),
        Spelling(every_op, attributes={"rounding": "every_op"}),
        Spelling(every_op_by_variance, attributes={"rounding": "every_op" + VARIANCE}),
        Spelling(divided, attributes={"rounding": "divided"}),
        Spelling(divided_by_variance, attributes={"rounding": "divided" + VARIANCE}),
    ),
    near_misses=(divided_by_deviation, unbiased),
    anchors=("layer_norm", "rsqrt/add/mean/square/sub", "sqrt/add/mean/square/sub"),
    priority=10,
    bench=(Shape("gpt-neox-20b prefill", {"x": (8192, 6144), "weight": (6144,), "bias": (6144,)}),),
)
