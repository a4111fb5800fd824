"""GeGLU's gate: gelu(gate) * up (Shazeer, arXiv:2002.05202), exact or with the tanh approximation.

`rounding` as in silu_mul: activation, once, every_op.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F

from tile_backend.lowering.fusion import Fusion, Op, Shape, Spelling, Tensor, same_as
from tile_backend.patterns import _gate_gradient


def tanh_gelu(x: torch.Tensor) -> torch.Tensor:
    """The tanh approximation as Transformers' gelu_new spells it."""
    inner = math.sqrt(2.0 / math.pi) * (x + 0.044715 * torch.pow(x, 3.0))
    return 0.5 * x * (1.0 + torch.tanh(inner))


def erf_gelu(x: torch.Tensor) -> torch.Tensor:
    """The exact function as older Transformers code spells it."""
    return x * 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0)))


def gelu_mul(
    gate: torch.Tensor,
    up: torch.Tensor,
    approximate: str = "none",
    rounding: str = "activation",
) -> torch.Tensor:
    """gelu(gate) * up, element by element; `approximate` is "none" (erf) or "tanh"."""
    if rounding == "every_op":
        return (tanh_gelu(gate) if approximate == "tanh" else erf_gelu(gate)) * up
    if rounding == "once":
        return (F.gelu(gate.float(), approximate=approximate) * up.float()).to(gate.dtype)
    return F.gelu(gate, approximate=approximate) * up


def exact(gate: Any, up: Any) -> Any:
    return F.gelu(gate) * up


def tanh(gate: Any, up: Any) -> Any:
    return F.gelu(gate, approximate="tanh") * up


def exact_in_float32(gate: Any, up: Any) -> Any:
    return (F.gelu(gate.float()) * up.float()).to(gate.dtype)


def tanh_in_float32(gate: Any, up: Any) -> Any:
    return (F.gelu(gate.float(), approximate="tanh") * up.float()).to(gate.dtype)


def tanh_by_hand(gate: Any, up: Any) -> Any:
    return tanh_gelu(gate) * up


def exact_by_hand(gate: Any, up: Any) -> Any:
    return erf_gelu(gate) * up


def no_product(gate: Any, up: Any) -> Any:
    """the activation is added, not multiplied."""
    return F.gelu(gate) + up


FUSION = Fusion(
    name="gelu_mul",
    summary="gelu(gate) * up, exact or tanh, separate or packed",
    ops=(
        Op(
            "gelu_mul",
            "(Tensor gate, Tensor up, str approximate='none', str rounding='activation') -> Tensor",
            gelu_mul,
            same_as("gate"),
            gradient=_gate_gradient.GELU_MUL,
        ),
        _gate_gradient.GELU_MUL_GRAD,
        _gate_gradient.GELU_MUL_GRAD_PACKED,
    ),
    holes={"gate": Tensor("... D"), "up": Tensor("... D")},
    spellings=(
        Spelling(exact, attributes={"approximate": "none", "rounding": "activation"}),
        Spelling(tanh, attributes={"approximate": "tanh", "rounding": "activation"}),
        Spelling(exact_in_float32, attributes={"approximate": "none", "rounding": "once"}),
        Spelling(tanh_in_float32, attributes={"approximate": "tanh", "rounding": "once"}),
        Spelling(exact_by_hand, attributes={"approximate": "none", "rounding": "every_op"}),
        Spelling(tanh_by_hand, attributes={"approximate": "tanh", "rounding": "every_op"}),
    ),
    near_misses=(no_product,),
    anchors=("gelu",),
    alike=(("gate", "up"),),
    priority=10,
    bench=(Shape("gemma-3-4b prefill", {"gate": (8192, 10240), "up": (8192, 10240)}),),
)
