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


def silu_mul_grad_packed(
    dout: torch.Tensor,
    gate: torch.Tensor,
    up: torch.Tensor,
    alpha: float = 1.0,
    up_first: bool = False,
) -> torch.Tensor:
    """Both gradients of `silu_mul` in one tensor [..., 2 * D], that of gate first or that of up."""
    return packed(silu_mul_grad(dout, gate, up, alpha), up_first)


def gelu_mul_grad_packed(
    dout: torch.Tensor,
    gate: torch.Tensor,
    up: torch.Tensor,
    approximate: str = "none",
    up_first: bool = False,
) -> torch.Tensor:
    """As silu_mul_grad_packed, of `gelu_mul`."""
    return packed(gelu_mul_grad(dout, gate, up, approximate), up_first)


def packed(pair: Pair, up_first: bool) -> torch.Tensor:
    return torch.cat(pair[::-1] if up_first else pair, -1)


def packed_outputs(gate: torch.Tensor, **_: Any) -> torch.Tensor:
    return gate.new_empty((*gate.shape[:-1], 2 * gate.shape[-1]))


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
    given["dout"] = cotangents[0]
    wanted = {"of_gate": "gate" in needed, "of_up": "up" in needed}
    distance = apart(arguments["gate"], arguments["up"])
    if distance and all(wanted.values()):
        # The gradient of a split is a concatenation, which Inductor leaves out of what was split.
        both = run(f"{name}_packed", **given, up_first=distance < 0)
        pair = both.split_with_sizes([abs(distance)] * 2, both.dim() - 1)
        return dict(zip(("up", "gate") if distance < 0 else ("gate", "up"), pair, strict=True))
    dgate, dup = run(name, **given, **wanted)
    return {"gate": dgate if wanted["of_gate"] else None, "up": dup if wanted["of_up"] else None}


def apart(gate: torch.Tensor, up: torch.Tensor) -> int:
    """Elements from gate to up where they lie as the halves of packed rows do, else 0.

    A guess by strides alone: where it is wrong, a concatenation is a copy, as without it.
    """
    width = gate.shape[-1] if gate.dim() > 1 else 0
    distance = up.storage_offset() - gate.storage_offset()
    known = all(isinstance(n, int) for n in (width, *gate.stride()[-2:]))
    if not (known and isinstance(distance, int)) or gate.shape != up.shape:
        return 0
    if abs(distance) != width:
        return 0
    rows = (2 * width, 1)
    return distance if gate.stride()[-2:] == rows == up.stride()[-2:] else 0


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
PACKED = "(Tensor dout, Tensor gate, Tensor up, {} bool up_first=False) -> Tensor"
SILU_MUL_GRAD_PACKED = Op(
    "silu_mul_grad_packed",
    PACKED.format("float alpha=1.0,"),
    silu_mul_grad_packed,
    packed_outputs,
)
GELU_MUL_GRAD_PACKED = Op(
    "gelu_mul_grad_packed",
    PACKED.format("str approximate='none',"),
    gelu_mul_grad_packed,
    packed_outputs,
)
