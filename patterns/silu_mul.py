"""SwiGLU's gate: silu(gate) * up (Shazeer, arXiv:2002.05202).

gate and up are two tensors, or two halves of one packed projection (views; no copy is made).
`rounding`:
  activation  the activation in float32 and rounded, then the product, as in F.silu(gate) * up
  once        activation and product in float32, rounded at the end
  every_op    sigmoid, product and product each in the input's dtype
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from tile_backend.lowering.fusion import Fusion, Op, Scalar, Shape, Spelling, Tensor, same_as
from tile_backend.patterns import _gate_gradient


def silu_mul(
    gate: torch.Tensor, up: torch.Tensor, alpha: float = 1.0, rounding: str = "activation"
) -> torch.Tensor:
    """gate * sigmoid(alpha * gate) * up, element by element; gate and up have one shape."""
    if rounding == "every_op":
        return gate * torch.sigmoid(gate if alpha == 1.0 else gate * alpha) * up
    wide = gate.float()
    # Torch's own where there is one: its derivative is one factor, which infinity stays beside.
    activation = F.silu(wide) if alpha == 1.0 else wide * torch.sigmoid(wide * alpha)
    if rounding == "once":
        return (activation * up.float()).to(gate.dtype)
    return activation.to(gate.dtype) * up


def functional(gate: Any, up: Any) -> Any:
    return F.silu(gate) * up


def product_in_float32(gate: Any, up: Any) -> Any:
    return (F.silu(gate.float()) * up.float()).to(gate.dtype)


def by_hand(gate: Any, up: Any) -> Any:
    return gate * torch.sigmoid(gate) * up


def sharpened(gate: Any, up: Any, alpha: Any) -> Any:
    return gate * torch.sigmoid(gate * alpha) * up


def divided(gate: Any, up: Any) -> Any:
    """the activation is divided, not multiplied."""
    return F.silu(gate) / up


def no_gate(gate: Any, up: Any) -> Any:
    """the activation is added, not multiplied."""
    return F.silu(gate) + up


FUSION = Fusion(
    name="silu_mul",
    summary="silu(gate) * up, separate or packed",
    ops=(
        Op(
            "silu_mul",
            "(Tensor gate, Tensor up, float alpha=1.0, str rounding='activation') -> Tensor",
            silu_mul,
            same_as("gate"),
            gradient=_gate_gradient.SILU_MUL,
        ),
        _gate_gradient.SILU_MUL_GRAD,
        _gate_gradient.SILU_MUL_GRAD_PACKED,
    ),
    holes={"gate": Tensor("... D"), "up": Tensor("... D"), "alpha": Scalar()},
    spellings=(
        Spelling(functional, attributes={"rounding": "activation"}),
        Spelling(product_in_float32, attributes={"rounding": "once"}),
        Spelling(by_hand, attributes={"rounding": "every_op"}),
        Spelling(sharpened, attributes={"rounding": "every_op"}),
    ),
    near_misses=(divided, no_gate),
    anchors=("silu",),
    alike=(("gate", "up"),),
    priority=10,
    bench=(
        Shape("llama-3-8b decode", {"gate": (1, 14336), "up": (1, 14336)}),
        Shape("llama-3-8b prefill", {"gate": (8192, 14336), "up": (8192, 14336)}),
    ),
)
