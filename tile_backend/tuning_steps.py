"""An op that divides its work among launches of others, measured with more parts and with fewer.

How many parts there are is a function of how many multiprocessors the GPU is said to have. What is
measured is the whole: all launches, one after the other, as the graph will have them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from tile_backend.lowering import custom_op, launch_recipe, oracle, reference
from tile_backend.lowering.launch_configuration import DEFAULT
from tile_backend.lowering.launch_recipe import describe
from tile_backend.lowering.prune import Call
from tile_backend.lowering.steps import way_of
from tile_backend.lowering.tuning_entry import Kind
from tile_backend.tuning_measure import Bench, Outcome, exactly, made, race

SHARES = (0.5, 2, 4)
"""Of the multiprocessors that there are."""


class Step(NamedTuple):
    """A launch of an op; tensors on meta, the results of one being arguments of the next."""

    op: str
    arguments: Mapping[str, Any]
    outputs: Sequence[torch.Tensor]


def divisions(call: Call, multiprocessors: int) -> dict[str, list[Step]]:
    """The different ways to divide a call, that of the op itself first, under DEFAULT."""
    found = {DEFAULT: divided(call, multiprocessors)}
    seen = [described(found[DEFAULT])]
    for number in (*(int(share * multiprocessors) for share in SHARES), 1):
        steps = divided(call, number)
        if described(steps) not in seen:
            seen.append(described(steps))
            found[way_of(number)] = steps
    return found


def divided(call: Call, multiprocessors: int) -> list[Step]:
    """The launches on such a GPU; the op's own where one serves it better."""
    op = custom_op.record(call.op).op
    arguments = dict(zip(call.names, call.values, strict=False))
    steps: list[Step] = []

    def run(name: str, **given: Any) -> Any:
        other = custom_op.record(name)
        filled = other.signature.bind((), given)
        steps.append(Step(name, filled, reference.as_tuple(other.op.outputs(**filled))))
        return reference.untupled(tuple(steps[-1].outputs))

    assert op.steps is not None
    if op.steps(run, arguments, multiprocessors) is None:
        return [Step(call.op, arguments, call.values[len(call.names) :])]
    return steps


def described(steps: Sequence[Step]) -> Any:
    """Equal for the same launches."""
    return [(s.op, describe((*s.arguments.values(), *s.outputs))) for s in steps]


def measure(bench: Bench, call: Call, kind: Kind, ways: Mapping[str, Sequence[Step]]) -> Outcome:
    """ways: of `divisions`. The first one's results are what the others are held against."""
    arguments = made(bench, call, kind)
    given = {id(v): real for v, real in zip(call.values, arguments, strict=False)}
    runs = {name: replay(bench, steps, given, call.arch) for name, steps in ways.items()}
    for run, _ in runs.values():
        run()
    own = runs[DEFAULT][1]
    exact = exactly(custom_op.record(call.op), call, arguments, own)
    verdicts = {name: oracle.within_budget(found, exact, own) for name, (_, found) in runs.items()}
    wrong = {name: str(verdict) for name, verdict in verdicts.items() if not verdict}
    kept = {name: run for name, (run, _) in runs.items() if name not in wrong or name == DEFAULT}
    return Outcome(*race(bench.clock, kept), wrong)


def replay(
    bench: Bench, steps: Sequence[Step], given: Mapping[int, Any], arch: str
) -> tuple[Callable[[], object], list[torch.Tensor]]:
    """What launches all steps on real tensors, and where their last results are.

    given: the real arguments by the identity of those on meta.
    """
    values = dict(given)
    for step in steps:
        values |= {
            id(out): torch.empty_strided(
                out.shape, out.stride(), dtype=out.dtype, device=bench.device
            )
            for out in step.outputs
        }
    launches = list(launches_of(bench, steps, values, arch))

    def run() -> None:
        for launch in launches:
            launch()

    return run, [values[id(out)] for out in steps[-1].outputs]


def launches_of(
    bench: Bench, steps: Sequence[Step], values: Mapping[int, Any], arch: str
) -> Iterator[Callable[[], object]]:
    """A function for each step that has an element to compute."""
    for step in steps:
        all_of = (*step.arguments.values(), *step.outputs)
        recipe = launch_recipe.recipe(step.op, tuple(step.arguments), describe(all_of), arch)
        if recipe is not None:
            passed = recipe.arguments([values.get(id(v), v) for v in all_of])
            yield functools.partial(bench.launch, recipe.kernel, recipe.grid, passed)
