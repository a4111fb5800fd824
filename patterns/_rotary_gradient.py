"""The backward of rotary embeddings: the transposed rotation, by the same tables, of the gradient.

For a pair (a, b) with angles of its own in each place (tables may hold each angle twice):

    da = dout_a * cos_a + dout_b * sin_b        db = dout_b * cos_b - dout_a * sin_a

in float32. Neither q nor k is kept. Tables that need a gradient are rare: the reference is
differentiated for them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from tile_backend.lowering.fusion import Gradient, Op, Run


def rotary_grad(
    dout: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    layout: str,
    rotary_dim: int,
    conjugate: bool,
    dtype: torch.dtype,
) -> torch.Tensor:
    """The gradient of x of `rotary`, in that dtype; dout [..., D] is that of its result."""
    width = dout.shape[-1] if rotary_dim < 0 else rotary_dim
    turned, passed = dout[..., :width].float(), dout[..., width:].float()
    cos, sin = cos.float(), -sin.float() if conjugate else sin.float()
    first, second = places(turned, layout == "interleaved")
    if cos.shape[-1] == width:
        (cos_1, cos_2), (sin_1, sin_2) = (places(t, layout == "interleaved") for t in (cos, sin))
    else:
        cos_1, cos_2, sin_1, sin_2 = cos, cos, sin, sin
    pair = (first * cos_1 + second * sin_2, second * cos_2 - first * sin_1)
    joined = torch.cat(pair, -1) if layout == "half" else torch.stack(pair, -1).flatten(-2)
    return torch.cat((joined, passed), -1).to(dtype)


def places(x: torch.Tensor, adjacent: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """The first and the second feature of each pair."""
    if adjacent:
        return x[..., 0::2], x[..., 1::2]
    middle = x.shape[-1] // 2
    return x[..., :middle], x[..., middle:]


def rotary_qk_grad(
    dq: torch.Tensor,
    dk: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    *attributes: Any,
    **named: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`rotary_grad` of the gradients of both results of `rotary_qk`."""
    return tuple(rotary_grad(dout, cos, sin, *attributes, **named) for dout in (dq, dk))  # type: ignore[return-value]


def outputs(dout: torch.Tensor, dtype: torch.dtype, **_: Any) -> torch.Tensor:
    return torch.empty_like(dout, dtype=dtype)


def qk_outputs(
    dq: torch.Tensor, dk: torch.Tensor, dtype: torch.dtype, **_: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.empty_like(dq, dtype=dtype), torch.empty_like(dk, dtype=dtype)


def applies(arguments: Mapping[str, Any], needed: Sequence[str]) -> bool:
    """Not for tables that need a gradient, nor for q and k of two dtypes."""
    dtypes = {arguments[name].dtype for name in ("x", "q", "k") if name in arguments}
    return len(dtypes) == 1 and {"x", "q", "k"}.issuperset(needed)


def backward(
    run: Run,
    arguments: Mapping[str, Any],
    results: Sequence[torch.Tensor],
    cotangents: Sequence[torch.Tensor | None],
    needed: Sequence[str],
) -> dict[str, torch.Tensor | None]:
    """See Gradient, of both ops: what is rotated comes first in the arguments."""
    names = [name for name in ("x", "q", "k") if name in arguments]
    douts = {
        name: dout
        for name, dout in zip(names, cotangents, strict=True)
        if dout is not None and name in needed
    }
    given = {n: v for n, v in arguments.items() if n not in (*names, "rounding")}
    given["dtype"] = arguments[names[0]].dtype
    if len(douts) == 2:
        found = run("rotary_qk_grad", dq=douts["q"], dk=douts["k"], **given)
        return dict(zip(names, found, strict=True))
    return {name: run("rotary_grad", dout=dout, **given) for name, dout in douts.items()}


GRADIENT = Gradient(applies, backward)

TABLES = "Tensor cos, Tensor sin, str layout, int rotary_dim, bool conjugate, ScalarType dtype"
OPS = (
    Op("rotary_grad", f"(Tensor dout, {TABLES}) -> Tensor", rotary_grad, outputs),
    Op(
        "rotary_qk_grad",
        f"(Tensor dq, Tensor dk, {TABLES}) -> (Tensor, Tensor)",
        rotary_qk_grad,
        qk_outputs,
    ),
)
