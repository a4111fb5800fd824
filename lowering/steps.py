"""An op as several ops of its fusion, one after the other, where those serve a call better.

`Op.steps` of the declaration is run on the fake tensors of a call. What it runs become calls of
their own: the gate, the kernels' code and the report look at them in place of the whole call, and
`replayed` puts them into the graph.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from tile_backend.lowering import reference
from tile_backend.lowering.fusion import Fusion, Op
from tile_backend.lowering.legality import Call, fake_mode_of
from tile_backend.lowering.signature import declared


def divided(fusion: Fusion, call: Call, multiprocessors: int) -> tuple[Call, ...]:
    """The calls that stand for this one; none where it is best as it is."""
    if call.op.steps is None or needs_gradient(call):
        return ()
    found: list[Call] = []

    def run(name: str, **arguments: Any) -> Any:
        op = fusion.op(name)
        given = declared(op).filled(arguments)
        outputs = reference.as_tuple(op.outputs(**given))
        found.append(Call(op, given, outputs, outputs))
        return reference.untupled(outputs)

    with fake_mode_of(call.arguments.values()):
        result = call.op.steps(run, call.arguments, multiprocessors)
    if result is None:
        return ()
    last = found[-1].outputs if found else ()
    if list(map(id, reference.as_tuple(result))) != list(map(id, last)):
        raise ValueError(f"the steps of tilegym.{call.op.name} return something else than the last")
    return tuple(found)


def needs_gradient(call: Call) -> bool:
    """Whether autograd follows an operand: it would have to save the results of the steps."""
    tensors = (a for a in call.arguments.values() if isinstance(a, torch.Tensor))
    return any(tensor.requires_grad for tensor in tensors)


def replayed(call: Call, given: Mapping[str, Any], run: Callable[[Op, list[Any]], Any]) -> Any:
    """The result of the last step on other values, proxies for one.

    given: they, by the names of the whole op's arguments. run: (op, its arguments in schema order)
    -> its result, or what gives one of its results when indexed.
    """
    values = {id(fake): given[name] for name, fake in call.arguments.items()}
    result = None
    for step in call.steps:
        result = run(step.op, [values.get(id(v), v) for v in step.arguments.values()])
        several = len(step.outputs) > 1
        for i, fake in enumerate(step.outputs):
            values[id(fake)] = result[i] if several else result
    return result
