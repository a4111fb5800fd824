"""An op as several ops of its fusion, one after the other, where those serve a call better.

`Op.steps` of the declaration is run on the fake tensors of a call. What it runs become calls of
their own: the gate, the kernels' code and the report look at them in place of the whole call, and
`replayed` puts them into the graph. How finely they divide the work depends on how many
multiprocessors they are told of; where a measurement is stored, it says how many that should be.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch

from tile_backend.lowering import reference, tuning_store
from tile_backend.lowering.fusion import Fusion, Op
from tile_backend.lowering.guards import NewGuard
from tile_backend.lowering.launch_configuration import gpu_of
from tile_backend.lowering.launch_kind import kind_of
from tile_backend.lowering.legality import Call, fake_mode_of
from tile_backend.lowering.signature import declared
from tile_backend.lowering.tuning_entry import Kind


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

    try:
        with fake_mode_of(call.arguments.values()):
            result = call.op.steps(run, call.arguments, multiprocessors)
    except NewGuard:  # as one op it is right for every size
        return ()
    if result is None:
        return ()
    last = found[-1].outputs if found else ()
    if list(map(id, reference.as_tuple(result))) != list(map(id, last)):
        raise ValueError(f"the steps of tilegym.{call.op.name} return something else than the last")
    return tuple(found)


WAY = re.compile(r"multiprocessors=([1-9]\d{0,4})")


def way_of(multiprocessors: int) -> str:
    """What the measurement of a division is called."""
    return f"multiprocessors={multiprocessors}"


def kind_of_steps(op: Op, arguments: Mapping[str, Any]) -> Kind:
    """The kind under which the division of a call is measured, not the launch of its own kernel."""
    kind = kind_of(op, arguments)
    return dataclasses.replace(kind, text=kind.text.replace(op.name, f"{op.name}.steps", 1))


def multiprocessors_for(call: Call, multiprocessors: int, arch: str) -> int:
    """How many an op's steps are told of: those of the GPU, or what was measured to be best."""
    if call.op.steps is None or not tuning_store.has(arch, "configuration"):
        return multiprocessors
    kind = kind_of_steps(call.op, call.arguments)
    for found in tuning_store.find(arch, gpu_of(arch), "configuration", kind):
        if found.entry.covers(kind.sizes):
            chosen = WAY.fullmatch(found.entry.chosen)
            return int(chosen[1]) if chosen else multiprocessors
    return multiprocessors


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
