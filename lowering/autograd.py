"""The backward of every op: other ops where it declares some, else derived from its reference.

Derived: recompute the reference under grad, and differentiate. Only inputs are saved. Traced by
AOTAutograd, the recomputation is ordinary ATen in the joint graph, which the partitioner and
Inductor treat like any other code. Declared (`fusion.Gradient`): the joint graph has the ops of its
backward, and their kernels run where the op's own does; where no kernel runs, derived is cheaper.
No work is done for inputs that need no gradient, nor for results that received none. Second
derivatives and forward-mode AD raise.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch.autograd import forward_ad

from tile_backend.lowering import failure, independent_results, reference
from tile_backend.lowering import unavailable_derivatives as unavailable
from tile_backend.lowering.fusion import Gradient, Op
from tile_backend.lowering.launch_place import launches_on
from tile_backend.lowering.signature import Signature

LOGGER = logging.getLogger(__name__)
Found = TypeVar("Found")
Gradients = Mapping[str, torch.Tensor | None]
Backward = Callable[..., Gradients]
"""(arguments, results of forward, gradients of the op's results, names that need one) -> by name"""


@dataclasses.dataclass(frozen=True, eq=False)
class Way:
    """How an op is differentiated.

    runs: what runs forward; the results that it has beside those of the op come last, and have no
    gradient. kept: which of its results are saved.
    """

    runs: Callable[[], torch._ops.OpOverload]
    backward: Backward
    kept: tuple[int, ...] = ()


class Ways:
    """Those of one overload of an op: derived from the reference, and the declared one, if any."""

    def __init__(self, op: Op, overload: torch._ops.OpOverload, signature: Signature) -> None:
        self.op, self.signature = op, signature
        self.interpreted = overload._overloadname != "default"
        self.derived = Way(lambda: overload, functools.partial(_derived, op))
        self.declared = _declared(op, op.gradient, overload) if op.gradient else self.derived
        known = op.gradient_on_cpu
        self.on_cpu = _declared(op, known, overload) if known else self.derived

    def needed(self, values: Sequence[Any]) -> list[str]:
        """The names of the arguments that need a gradient."""
        return [
            name
            for name, value in zip(self.signature.names, values, strict=True)
            if isinstance(value, torch.Tensor) and value.requires_grad
        ]

    def tried(self, applies: Callable[[], bool]) -> bool:
        """Whether a declared gradient applies; not where the question fails."""
        return or_derived(self.op, applies, lambda: False)

    def chosen(self, values: Sequence[Any], needed: Sequence[str]) -> tuple[Way, tuple[Any, ...]]:
        """The way for these arguments, and what the op is then called with."""
        values = tuple(map(savable, values))
        gradient = self.op.gradient
        if gradient is None:
            return self.derived, values
        arguments = dict(zip(self.signature.names, values, strict=True))
        device = reference.tensors_of(arguments)[0].device
        there = self.op.gradient_on_cpu
        if there and device.type == "cpu" and not (self.interpreted or launches_on(device)):
            applies = functools.partial(there.applies, arguments, needed)
            return (self.on_cpu if self.tried(applies) else self.derived), values
        runs = self.interpreted or gradient.always or launches_on(device)
        if not (runs and self.tried(functools.partial(gradient.applies, arguments, needed))):
            return self.derived, values
        if gradient.named:
            values = tuple({**arguments, gradient.named: ",".join(needed)}.values())
        return self.declared, values


def register(
    library: torch.library.Library,
    op: Op,
    overload: torch._ops.OpOverload,
    signature: Signature,
) -> None:
    """Give `overload` an Autograd kernel.

    Our own, because torch.library.register_autograd drops forward-mode tangents silently.
    """
    ways = Ways(op, overload, signature)
    functions = {
        way: _function(op, way, signature) for way in (ways.derived, ways.declared, ways.on_cpu)
    }

    def kernel(*args: Any) -> Any:
        if forward_ad._current_level >= 0:
            unavailable.refuse_tangents(op.name, args)
        if torch._C._are_functorch_transforms_active():  # torch.func.grad, vmap and the like
            return reference.untupled(reference.run(op, signature.bind(args)))
        values = signature.values(args)
        needed = ways.needed(values)
        if not needed or not torch.is_grad_enabled():
            with torch._C._AutoDispatchBelowAutograd():
                return overload(*args)
        way, given = ways.chosen(values, needed)
        results = functools.partial(functions[way].apply, *given)
        if way is not ways.derived:
            values = tuple(map(savable, values))
            derived = functools.partial(functions[ways.derived].apply, *values)
            results = functools.partial(or_derived, op, results, derived)
        return reference.untupled(reference.as_tuple(results())[: signature.results])

    library.impl(overload, kernel, "Autograd")


def or_derived(op: Op, declared: Callable[[], Found], derived: Callable[[], Found]) -> Found:
    """What the declared gradient gives; where that fails, what is derived from the reference."""
    try:
        return declared()
    except Exception as error:
        if failure.is_final(error) or interpreted_fault(error):
            raise
        said = failure.said(error)
        LOGGER.debug("the gradient of %s failed", op.name, exc_info=error)
    found = derived()  # what is wrong with the call is raised here, as if nothing had been before
    from tile_backend.lowering import kernel_launch  # imports what imports this module

    kernel_launch.warn_once(op.name, said, "differentiates its reference, not by its own gradient")
    return found


def interpreted_fault(error: Exception) -> bool:
    """Whether an interpreted kernel has broken a rule, which is what it is interpreted for."""
    faults = sys.modules.get("tile_backend.lowering.interpreter.faults")
    return faults is not None and isinstance(error, faults.KernelFault)


def savable(value: Any) -> Any:
    """A tensor made in inference mode cannot be saved for the backward; its copy can."""
    if isinstance(value, torch.Tensor) and value.is_inference():
        return value.clone()
    return value


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


def _derived(
    op: Op,
    arguments: Mapping[str, Any],
    results: Sequence[torch.Tensor],
    cotangents: Sequence[torch.Tensor | None],
    needed: Sequence[str],
) -> Gradients:
    return gradients(op, arguments, needed, cotangents)


def _declared(op: Op, gradient: Gradient, overload: torch._ops.OpOverload) -> Way:
    """The way by a declared gradient. The ops that it names are defined after this one."""
    packets = getattr(torch.ops, overload.namespace)
    kind = overload._overloadname  # the interpreted op is differentiated by interpreted ops

    def other(name: str) -> Any:
        return getattr(getattr(packets, name), kind)

    def run(name: str, **arguments: Any) -> Any:
        return other(name)(**arguments)

    def backward(
        arguments: Mapping[str, Any],
        results: Sequence[torch.Tensor],
        cotangents: Sequence[torch.Tensor | None],
        needed: Sequence[str],
    ) -> Gradients:
        given = [cotangent for cotangent in cotangents if cotangent is not None]
        if not given:
            return {}

        def declared() -> Gradients:
            with torch.no_grad(), reference.without_autocast(given[0].device.type):
                return gradient.backward(run, arguments, results, cotangents, needed)

        derived = functools.partial(gradients, op, arguments, needed, cotangents)
        return or_derived(op, declared, derived)

    return Way(lambda: other(gradient.saving or op.name), backward, gradient.kept)


def without_another(
    op: Op, found: Gradients, sources: Sequence[torch.Tensor | None]
) -> dict[str, torch.Tensor | None]:
    """The gradients, whose own derivative by what they were made of raises."""
    given = [t for t in sources if t is not None]
    return {
        name: gradient if gradient is None else unavailable.once(op.name, gradient, given)
        for name, gradient in found.items()
    }


def independent(
    op: Op, signature: Signature, values: Sequence[Any], needs: Sequence[bool]
) -> tuple[int, ...]:
    """The results without a gradient. Of a single one it is known."""
    if signature.results == 1:
        return ()
    named = dict(zip(signature.names, needs, strict=True))
    asked = functools.partial(independent_results.of, op, signature.bind(values), named)
    return or_derived(op, asked, tuple)


def _function(op: Op, way: Way, signature: Signature) -> type[torch.autograd.Function]:
    """One Function class per op, so that `grad_fn` names the op in anomaly traces."""
    tensors = sum(signature.is_tensor)

    def forward(*args: Any) -> Any:
        with torch._C._AutoDispatchBelowAutograd():
            return way.runs()(*args)

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        results = reference.as_tuple(output)
        ctx.set_materialize_grads(False)
        apart = independent(op, signature, inputs, ctx.needs_input_grad)
        ctx.mark_non_differentiable(*(results[i] for i in apart), *results[signature.results :])
        ctx.save_for_backward(*inputs[:tensors], *(results[i] for i in way.kept))
        ctx.scalars = inputs[tensors:]

    def backward(ctx: Any, *cotangents: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        saved = ctx.saved_tensors
        values = (*saved[:tensors], *ctx.scalars)
        arguments = dict(zip(signature.names, values, strict=True))
        needed = [
            name for name, needs in zip(signature.names, ctx.needs_input_grad, strict=True) if needs
        ]
        cotangents = cotangents[: signature.results]
        found = way.backward(arguments, saved[tensors:], cotangents, needed)
        if torch.is_grad_enabled():  # create_graph=True
            found = without_another(op, found, (*cotangents, *saved[:tensors]))
        return tuple(found.get(name) for name in signature.names)

    def jvp(ctx: Any, *tangents: Any) -> Any:
        raise unavailable.forward_mode(op.name)

    body = {
        "forward": staticmethod(forward),
        "setup_context": staticmethod(setup_context),
        "backward": staticmethod(backward),
        "jvp": staticmethod(jvp),
    }
    return type(f"tilegym_{op.name}", (torch.autograd.Function,), body)
