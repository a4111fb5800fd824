"""The backward of the gated activations: activation and slope are computed again from the gate.

    dgate = dout * up * act'(gate)        dup = dout * act(gate)

in float32, whatever the forward rounds, in one pass over dout, gate and up. Nothing else is kept.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from tile_backend.lowering.fusion import Gradient, Op, Run

Pair = tuple[torch.Tensor, torch.Tensor]


def silu_mul_grad(
    dout: torch.Tensor,
    gate: torch.Tensor,
    up: torch.Tensor,
    alpha: float = 1.0,
    of_gate: bool = True,
    of_up: bool = True,
) -> Pair:
    """The gradients of gate and up of `silu_mul`, all of one shape; empty where not asked for.

    With s = sigmoid(alpha * gate), the slope of gate * s is s * (1 + alpha * gate * (1 - s)).
    """
    wide = gate.float()
    share = torch.sigmoid(wide * alpha)
    slope = share * (1 + alpha * wide * (1 - share))
    return gradients(dout, gate, up, wide * share, slope, of_gate, of_up)


def gelu_mul_grad(
    dout: torch.Tensor,
    gate: torch.Tensor,
    up: torch.Tensor,
    approximate: str = "none",
    of_gate: bool = True,
    of_up: bool = True,
) -> Pair:
    """As silu_mul_grad, of `gelu_mul`: x * P(X <= x) has the slope P(X <= x) + x * density(x)."""
    wide = gate.float()
    if approximate == "tanh":
        unit = math.sqrt(2.0 / math.pi)
        bend = torch.tanh(unit * (wide + 0.044715 * wide.pow(3)))
        share = 0.5 * (1 + bend)
        density = 0.5 * (1 - bend.square()) * unit * (1 + 3 * 0.044715 * wide.square())
    else:
        share = 0.5 * (1 + torch.erf(wide * math.sqrt(0.5)))
        density = torch.exp(-0.5 * wide.square()) * (1 / math.sqrt(2 * math.pi))
    return gradients(dout, gate, up, wide * share, share + wide * density, of_gate, of_up)


def gradients(
    dout: torch.Tensor,
    gate: torch.Tensor,
    up: torch.Tensor,
    activation: torch.Tensor,
    slope: torch.Tensor,
    of_gate: bool,
    of_up: bool,
) -> Pair:
    dgate = (dout.float() * up.float() * slope).to(gate.dtype)
    dup = (dout.float() * activation).to(up.dtype)
    return dgate if of_gate else gate.new_empty((0,)), dup if of_up else up.new_empty((0,))


def outputs(gate: torch.Tensor, up: torch.Tensor, of_gate: bool, of_up: bool, **_: Any) -> Pair:
    return (
        torch.empty_like(gate) if of_gate else gate.new_empty((0,)),
        torch.empty_like(up) if of_up else up.new_empty((0,)),
    )


def applies(arguments: Mapping[str, Any], needed: Sequence[str]) -> bool:
    """Always: there is nothing else to differentiate."""
    return True


def backward(
    name: str,
    run: Run,
    arguments: Mapping[str, Any],
    results: Sequence[torch.Tensor],
    cotangents: Sequence[torch.Tensor],
    needed: Sequence[str],
) -> dict[str, torch.Tensor | None]:
    """See Gradient. name: of the op."""
    given = {n: value for n, value in arguments.items() if n != "rounding"}
    both = {"of_gate": "gate" in needed, "of_up": "up" in needed}
    dgate, dup = run(name, dout=cotangents[0], **given, **both)
    return {"gate": dgate if both["of_gate"] else None, "up": dup if both["of_up"] else None}


def silu_backward(*rest: Any) -> dict[str, torch.Tensor | None]:
    return backward("silu_mul_grad", *rest)


def gelu_backward(*rest: Any) -> dict[str, torch.Tensor | None]:
    return backward("gelu_mul_grad", *rest)


SILU_MUL = Gradient(applies, silu_backward)
GELU_MUL = Gradient(applies, gelu_backward)

SILU_MUL_GRAD = Op(
    "silu_mul_grad",
    "(Tensor dout, Tensor gate, Tensor up, float alpha=1.0, bool of_gate=True, bool of_up=True)"
    " -> (Tensor, Tensor)",
    silu_mul_grad,
    outputs,
)
GELU_MUL_GRAD = Op(
    "gelu_mul_grad",
    "(Tensor dout, Tensor gate, Tensor up, str approximate='none', bool of_gate=True,"
    " bool of_up=True) -> (Tensor, Tensor)",
    gelu_mul_grad,
    outputs,
)
