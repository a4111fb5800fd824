"""The backward of every op, derived from its reference: recompute it under grad, and differentiate.

Only inputs are saved. Traced by AOTAutograd, the recomputation is ordinary ATen in the joint
graph, which the partitioner and Inductor treat like any other code. No work is done for inputs that
need no gradient, nor for results that received none. Second derivatives and forward-mode AD raise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.autograd import forward_ad

from tile_backend.lowering import reference
from tile_backend.lowering.fusion import Op
from tile_backend.lowering.signature import Signature

LATER = (
    "is not available in this version; call the plain PyTorch function instead,"
    " or compile with TILEGYM_DISABLE=1"
)


def register(
    library: torch.library.Library,
    op: Op,
    overload: torch._ops.OpOverload,
    signature: Signature,
) -> None:
    """Give `overload` an Autograd kernel.

    Our own, because torch.library.register_autograd drops forward-mode tangents silently.
    """
    function = _function(op, overload, signature)

    def kernel(*args: Any) -> Any:
        if forward_ad._current_level >= 0:
            _refuse_tangents(op, args)
        if torch._C._are_functorch_transforms_active():  # torch.func.grad, vmap and the like
            return reference.untupled(reference.run(op, signature.bind(args)))
        if torch.is_grad_enabled() and any(
            isinstance(value, torch.Tensor) and value.requires_grad for value in args
        ):
            return function.apply(*signature.values(args))
        with torch._C._AutoDispatchBelowAutograd():
            return overload(*args)

    library.impl(overload, kernel, "Autograd")


def gradients(
    op: Op,
    arguments: Mapping[str, Any],
    needed: Sequence[str],
    cotangents: Sequence[torch.Tensor | None],
) -> dict[str, torch.Tensor | None]:
    """Gradients of the arguments named in `needed`; None where no live result depends on one.

    cotangents: one per result of the op, None where that result received no gradient.
    """
    detached = {
        name: value.detach() if isinstance(value, torch.Tensor) else value
        for name, value in arguments.items()
    }
    leaves = [detached[name].requires_grad_() for name in needed]
    with torch.enable_grad():
        results = reference.run(op, detached)
    live = [
        (result, cotangent)
        for result, cotangent in zip(results, cotangents, strict=True)
        if cotangent is not None and result.requires_grad
    ]
    if not live or not leaves:
        return dict.fromkeys(needed)
    ours, theirs = zip(*live, strict=True)
    with reference.without_autocast(ours[0].device.type):
        found = torch.autograd.grad(ours, leaves, theirs, allow_unused=True)
    return dict(zip(needed, found, strict=True))


def _function(
    op: Op, overload: torch._ops.OpOverload, signature: Signature
) -> type[torch.autograd.Function]:
    """One Function class per op, so that `grad_fn` names the op in anomaly traces."""

    def forward(*args: Any) -> Any:
        with torch._C._AutoDispatchBelowAutograd():
            return overload(*args)

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.set_materialize_grads(False)
        tensors = len([kind for kind in signature.is_tensor if kind])
        ctx.save_for_backward(*inputs[:tensors])
        ctx.scalars = inputs[tensors:]

    def backward(ctx: Any, *cotangents: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        values = (*ctx.saved_tensors, *ctx.scalars)
        arguments = dict(zip(signature.names, values, strict=True))
        needed = [
            name for name, needs in zip(signature.names, ctx.needs_input_grad, strict=True) if needs
        ]
        found = gradients(op, arguments, needed, cotangents)
        if torch.is_grad_enabled():  # create_graph=True
            sources = [t for t in (*cotangents, *ctx.saved_tensors) if t is not None]
            found = {
                name: gradient if gradient is None else _once(op.name, gradient, sources)
                for name, gradient in found.items()
            }
        return tuple(found.get(name) for name in signature.names)

    def jvp(ctx: Any, *tangents: Any) -> Any:
        raise NotImplementedError(_forward_mode(op))

    body = {
        "forward": staticmethod(forward),
        "setup_context": staticmethod(setup_context),
        "backward": staticmethod(backward),
        "jvp": staticmethod(jvp),
    }
    return type(f"tilegym_{op.name}", (torch.autograd.Function,), body)


class _Once(torch.autograd.Function):
    """A gradient that depends on its sources in a way nobody may differentiate again."""

    @staticmethod
    def forward(
        ctx: Any, name: str, gradient: torch.Tensor, *sources: torch.Tensor
    ) -> torch.Tensor:
        ctx.name = name
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, *cotangents: torch.Tensor) -> Any:
        raise NotImplementedError(
            f"torch.ops.tilegym.{ctx.name}: the derivative of its gradient (double backward)"
            f" {LATER}"
        )


def _once(name: str, gradient: torch.Tensor, sources: Sequence[torch.Tensor]) -> torch.Tensor:
    result: torch.Tensor = _Once.apply(name, gradient, *sources)  # type: ignore[no-untyped-call]
    return result


def _forward_mode(op: Op) -> str:
    return f"torch.ops.tilegym.{op.name}: forward-mode differentiation {LATER}"


def _refuse_tangents(op: Op, args: Sequence[Any]) -> None:
    for value in args:
        if isinstance(value, torch.Tensor) and forward_ad.unpack_dual(value).tangent is not None:
            raise NotImplementedError(_forward_mode(op))
