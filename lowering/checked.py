"""`torch.ops.tilegym.checked_<op>` of every op: the op, and behind it the check of its results.

It is made of other ops, so that none of it is left in a compiled graph but the op as it always
runs, launched directly where it always is, and `tilegym.check`. The same holds for the backward.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.autograd import forward_ad

from tile_backend.lowering import autograd, reference
from tile_backend.lowering import unavailable_derivatives as unavailable
from tile_backend.lowering.autograd import Way, Ways
from tile_backend.lowering.check_request import Check, Request
from tile_backend.lowering.fusion import Op
from tile_backend.lowering.signature import Signature, declared

PREFIX = "checked_"
"""No overload: torch crashes at exit where of several overloads one has other parameters."""
PARAMETER = "str check=''"
"""The last one: a Check as text."""


def schema(op: Op) -> str:
    """The op's, and one parameter more."""
    parameters, arrow, results = op.schema.rpartition(") ->")
    return f"{PREFIX}{op.name}{parameters}, {PARAMETER}{arrow}{results}"


def overload(op: Op) -> torch._ops.OpOverload:
    """What goes into a graph."""
    found: torch._ops.OpOverload = getattr(torch.ops.tilegym, PREFIX + op.name).default
    return found


def register(library: torch.library.Library, op: Op, signature: Signature) -> None:
    """signature: of the op, which is defined."""
    library.define(schema(op), tags=(torch.Tag.pt2_compliant_tag,))
    packet = getattr(torch.ops.tilegym, op.name)
    ways = {name: Ways(op, getattr(packet, name), signature) for name in ("default", "interpreted")}

    def run(*args: Any) -> Any:
        if forward_ad._current_level >= 0:
            unavailable.refuse_tangents(op.name, args)
        given = (*args, *signature.defaults[len(args) :], "")  # the dispatcher drops defaults
        values, check = given[: len(signature.names)], Check.of(given[len(signature.names)])
        if torch._C._are_functorch_transforms_active():
            return reference.untupled(reference.run(op, signature.bind(values)))
        mine = ways[check.runs]
        needed = mine.needed(values)
        if needed and torch.is_grad_enabled():
            way, given = mine.chosen(values, needed)
            apply = functools.partial(Checked.apply, op, signature)
            declared = functools.partial(apply, way, check, *given)
            derived = functools.partial(apply, mine.derived, check, *map(autograd.savable, values))
            own = way is not mine.derived
            found = autograd.or_derived(op, declared, derived) if own else derived()
            return reference.untupled(reference.as_tuple(found))
        with torch._C._AutoDispatchBelowAutograd():
            results = reference.as_tuple(getattr(packet, check.runs)(*values))
        arguments = dict(zip(signature.names, values, strict=True))
        return reference.untupled(tuple(checked(op, arguments, results, check)))

    library.impl(PREFIX + op.name, run, "CompositeImplicitAutograd")


def checked(
    op: Op, arguments: Mapping[str, Any], results: Sequence[torch.Tensor], check: Check
) -> list[torch.Tensor]:
    """The results of an op, checked."""
    with torch.no_grad():
        made: list[torch.Tensor] = torch.ops.tilegym.check(*asked(op, arguments, results, check))
    return made


def asked(
    op: Op, arguments: Mapping[str, Any], results: Sequence[Any], check: Check
) -> tuple[list[Any], list[Any], str]:
    """What `check` is called with: tensors, or what stands for them in a graph."""
    kinds = dict(zip(declared(op).names, declared(op).is_tensor, strict=True))
    tensors = {name: a for name, a in arguments.items() if kinds[name] and a is not None}
    numbers = {name: a for name, a in arguments.items() if not kinds[name]}
    request = Request(check, op.name, tuple(tensors), numbers)
    return list(results), list(tensors.values()), request.to_text()


class Checked(torch.autograd.Function):
    """An op with a gradient: results and gradients are checked."""

    @staticmethod
    def forward(
        ctx: Any, op: Op, signature: Signature, way: Way, check: Check, *values: Any
    ) -> Any:
        arguments = dict(zip(signature.names, values, strict=True))
        with torch._C._AutoDispatchBelowAutograd():
            results = reference.as_tuple(way.runs()(*values))
        own = checked(op, arguments, results[: signature.results], check)
        every = (*own, *results[signature.results :])
        tensors = sum(signature.is_tensor)
        apart = autograd.independent(op, signature, values, ctx.needs_input_grad[4:])
        ctx.mark_non_differentiable(*(own[i] for i in apart))
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*values[:tensors], *(every[i] for i in way.kept))
        ctx.call = op, signature, way, check, values[tensors:]
        return reference.untupled(tuple(own))

    @staticmethod
    def backward(ctx: Any, *cotangents: torch.Tensor | None) -> Any:
        op, signature, way, check, scalars = ctx.call
        tensors = sum(signature.is_tensor)
        saved = ctx.saved_tensors
        arguments = dict(zip(signature.names, (*saved[:tensors], *scalars), strict=True))
        wanted = zip(signature.names, ctx.needs_input_grad[4:], strict=True)
        needed = [name for name, needs in wanted if needs]
        found = way.backward(arguments, saved[tensors:], cotangents, needed)
        found = checked_gradients(op, arguments, cotangents, found, check)
        if torch.is_grad_enabled():  # create_graph=True
            sources = (*cotangents, *saved[:tensors])
            found = autograd.without_another(op, found, sources)
        return (None, None, None, None, *(found.get(name) for name in signature.names))


def checked_gradients(
    op: Op,
    arguments: Mapping[str, Any],
    cotangents: Sequence[torch.Tensor | None],
    found: autograd.Gradients,
    check: Check,
) -> dict[str, torch.Tensor | None]:
    """The gradients, checked; None for an argument that none of the results depends on."""
    present = {name: gradient for name, gradient in found.items() if gradient is not None}
    if not present:
        return dict(found)
    _, _, forward = asked(op, arguments, (), check)
    request = Request.of(forward)
    tensors = [arguments[name] for name in request.tensors if isinstance(name, str)]
    given = {i: c for i, c in enumerate(cotangents) if c is not None}
    request = dataclasses.replace(
        request, tensors=(*request.tensors, *given), gradients=tuple(present)
    )
    with torch.no_grad():
        made = torch.ops.tilegym.check(
            list(present.values()), [*tensors, *given.values()], request.to_text()
        )
    return {**found, **dict(zip(present, made, strict=True))}
