"""The backward of the norms, by ops that read each row once and compute its scale again.

With the normalised row u = (x - mean) * scale, and g the gradient of u, which is dout * gain:

    dx = scale * (g - mean(g) - u * mean(g * u))        RMSNorm: without the means of x and g
    dgain = sum over rows of dout * u                   dbias = sum over rows of dout

(the chain rule; Zhang & Sennrich, arXiv:1910.07467, and Ba et al., arXiv:1607.06450). All in
float32, whatever the forward rounds. Beside the arguments nothing is kept. Sums over rows come as
`parts` rows of float32, each of a share of the rows, which PyTorch adds up: their order is fixed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from tile_backend.lowering.fusion import Gradient, Op, Run

PARTS = {1024: 1024, 4096: 384, 8192: 256}
"""Widest row -> shares: about as many blocks as one multiprocessor holds, times 128."""
FEWEST_PARTS = 128
DYNAMIC_PARTS = 384
PIECE = 1024
"""Rows that are shorter are handled several at a time."""


def parts_of(x: torch.Tensor) -> int:
    """How many shares the rows of x [..., D] are divided into, by its shape alone.

    A constant where a size is dynamic: no guard, and a share may have no row.
    """
    width = x.shape[-1]
    if not isinstance(width, int):
        return DYNAMIC_PARTS
    most = next((parts for widest, parts in PARTS.items() if width <= widest), FEWEST_PARTS)
    rows = 1
    for size in x.shape[:-1]:
        if not isinstance(size, int):
            return most
        rows *= size
    together = PIECE // (1 << max(width - 1, 0).bit_length()) or 1
    return max(min(most, -(-rows // together)), 1)


def in_parts(sums: torch.Tensor, parts: int) -> torch.Tensor:
    """[parts, D] that add up to sums [D]. Which rows a part has is the kernel's choice; here the
    first has all.
    """
    return F.pad(sums[None], (0, 0, 0, parts - 1)) if parts else sums.new_empty((0, len(sums)))


def per_feature(products: torch.Tensor) -> torch.Tensor:
    """Sums over all rows: [..., D] to [D]."""
    return products.sum_to_size(products.shape[-1:])


def rms_norm_grad(
    dout: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor | None,
    added: torch.Tensor | None,
    eps: float,
    offset: float = 0.0,
    weight_parts: int = 0,
    of_x: bool = True,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradients of x and of the weight of `rms_norm`, the latter float32 [weight_parts, D].

    dout and x [..., D], weight [D]. added: a gradient of x from elsewhere, of its shape. Without
    of_x the first result is empty.
    """
    hidden, slope = x.float(), dout.float()
    scale = torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + eps)
    unit = hidden * scale
    sums = in_parts(per_feature(slope * unit), weight_parts)
    if not of_x:
        return x.new_empty((0,)), sums
    if weight is not None:
        slope = slope * (weight.float() + offset)
    dx = scale * (slope - unit * ((slope * hidden).mean(-1, keepdim=True) * scale))
    return (dx if added is None else dx + added.float()).to(x.dtype), sums


def rms_outputs(
    x: torch.Tensor, weight_parts: int, of_x: bool, **_: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    return like(x, of_x), sums_like(x, weight_parts)


def layer_norm_grad(
    dout: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor | None,
    eps: float,
    weight_parts: int = 0,
    bias_parts: int = 0,
    of_x: bool = True,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The gradients of x, weight and bias of `layer_norm`; the last two float32 [parts, D].

    As rms_norm_grad. weight_parts and bias_parts are equal, or 0.
    """
    hidden, slope = x.float(), dout.float()
    centred = hidden - hidden.mean(-1, keepdim=True)
    scale = torch.rsqrt(centred.pow(2).mean(-1, keepdim=True) + eps)
    unit = centred * scale
    of_weight = in_parts(per_feature(slope * unit), weight_parts)
    of_bias = in_parts(per_feature(slope), bias_parts)
    if not of_x:
        return x.new_empty((0,)), of_weight, of_bias
    if weight is not None:
        slope = slope * weight.float()
    share = (slope * centred).mean(-1, keepdim=True) * scale
    dx = scale * (slope - slope.mean(-1, keepdim=True) - unit * share)
    return dx.to(x.dtype), of_weight, of_bias


def layer_outputs(
    x: torch.Tensor, weight_parts: int, bias_parts: int, of_x: bool, **_: Any
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return like(x, of_x), sums_like(x, weight_parts), sums_like(x, bias_parts)


def like(x: torch.Tensor, wanted: bool) -> torch.Tensor:
    return torch.empty_like(x) if wanted else x.new_empty((0,))


def sums_like(x: torch.Tensor, parts: int) -> torch.Tensor:
    return x.new_empty((parts, x.shape[-1]), dtype=torch.float32)


# --- the backward of each norm --------------------------------------------------------------------


def applies(arguments: Mapping[str, Any], needed: Sequence[str]) -> bool:
    """Not for a gain that is more than one number per feature."""
    width = arguments["x"].shape[-1]
    gains = (arguments.get(name) for name in ("weight", "bias"))
    return all(gain is None or _per_feature(gain, width) for gain in gains)


def _per_feature(gain: torch.Tensor, width: Any) -> bool:
    return gain.dim() > 0 and gain.shape[-1] == width and all(n == 1 for n in gain.shape[:-1])


def of_rms_norm(
    run: Run,
    arguments: Mapping[str, Any],
    x: torch.Tensor,
    dout: torch.Tensor,
    added: torch.Tensor | None,
    needed: Sequence[str],
    of_x: bool,
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """The gradients of x, which was normalised, and of the weight; None where not needed."""
    weight, of_weight = arguments["weight"], "weight" in needed
    if not (of_x or of_weight):
        return None, None
    dx, sums = run(
        "rms_norm_grad",
        dout=dout,
        x=x,
        weight=weight,
        added=added if of_x else None,
        eps=arguments["eps"],
        offset=arguments["offset"],
        weight_parts=parts_of(x) if of_weight else 0,
        of_x=of_x,
    )
    return dx if of_x else None, summed(sums, weight) if of_weight else None


def summed(parts: torch.Tensor, gain: torch.Tensor) -> torch.Tensor:
    return parts.sum(0).to(gain.dtype).reshape(gain.shape)


def backward(
    run: Run,
    arguments: Mapping[str, Any],
    results: Sequence[torch.Tensor],
    cotangents: Sequence[torch.Tensor],
    needed: Sequence[str],
) -> dict[str, torch.Tensor | None]:
    """See Gradient: that of rms_norm."""
    (dout,) = cotangents
    x = arguments["x"]
    dx, dweight = of_rms_norm(run, arguments, x, dout, None, needed, "x" in needed)
    return {"x": dx, "weight": dweight}


def backward_of_add(
    run: Run,
    arguments: Mapping[str, Any],
    results: Sequence[torch.Tensor],
    cotangents: Sequence[torch.Tensor | None],
    needed: Sequence[str],
) -> dict[str, torch.Tensor | None]:
    """That of add_rms_norm: x and residual have the gradient of their sum, which is kept."""
    (total,), (dnormed, dtotal) = results, cotangents
    added, dweight = dtotal, None
    terms = [name for name in ("x", "residual") if name in needed]
    if dnormed is not None:
        added, dweight = of_rms_norm(
            run, arguments, total, dnormed, dtotal, needed, of_x=bool(terms)
        )
    found = {name: added if added is None else added.to(arguments[name].dtype) for name in terms}
    return {**found, "weight": dweight}


def backward_before_add(
    run: Run,
    arguments: Mapping[str, Any],
    results: Sequence[torch.Tensor],
    cotangents: Sequence[torch.Tensor],
    needed: Sequence[str],
) -> dict[str, torch.Tensor | None]:
    """That of rms_norm_add."""
    found = backward(run, arguments, results, cotangents, needed)
    return {**found, "residual": cotangents[0].to(arguments["residual"].dtype)}


def backward_of_layer_norm(
    run: Run,
    arguments: Mapping[str, Any],
    results: Sequence[torch.Tensor],
    cotangents: Sequence[torch.Tensor],
    needed: Sequence[str],
) -> dict[str, torch.Tensor | None]:
    """That of layer_norm."""
    x, parts = arguments["x"], parts_of(arguments["x"])
    dx, *sums = run(
        "layer_norm_grad",
        dout=cotangents[0],
        x=x,
        weight=arguments["weight"],
        eps=arguments["eps"],
        weight_parts=parts if "weight" in needed else 0,
        bias_parts=parts if "bias" in needed else 0,
        of_x="x" in needed,
    )
    gains: dict[str, torch.Tensor | None] = {
        name: summed(each, arguments[name])
        for name, each in zip(("weight", "bias"), sums, strict=True)
        if name in needed
    }
    return {"x": dx, **gains} if "x" in needed else gains


RMS_NORM = Gradient(applies, backward)
ADD_RMS_NORM = Gradient(applies, backward_of_add, kept=(1,), always=True)
"""Also where no kernel runs: it keeps the sum, as the model's code does, not what was added."""
RMS_NORM_ADD = Gradient(applies, backward_before_add)
LAYER_NORM = Gradient(applies, backward_of_layer_norm)


def sizes(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """See Op.sizes. How many sums are wanted is a function of the rows; whether, is not."""
    sums = {n: arguments.get(n, 0) for n in ("weight_parts", "bias_parts")}
    return {"rows": math.prod(arguments["dout"].shape[:-1])} | {n: s for n, s in sums.items() if s}


RMS_NORM_GRAD = Op(
    "rms_norm_grad",
    "(Tensor dout, Tensor x, Tensor? weight, Tensor? added, float eps, float offset=0.0,"
    " int weight_parts=0, bool of_x=True) -> (Tensor, Tensor)",
    rms_norm_grad,
    rms_outputs,
    sizes=sizes,
)
LAYER_NORM_GRAD = Op(
    "layer_norm_grad",
    "(Tensor dout, Tensor x, Tensor? weight, float eps, int weight_parts=0, int bias_parts=0,"
    " bool of_x=True) -> (Tensor, Tensor, Tensor)",
    layer_norm_grad,
    layer_outputs,
    sizes=sizes,
)
