"""Launches that are measured: with a simulated clock, and kernels in the interpreter."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.attention_grad_cases import backward_arguments
from tests.kernel_cases import arguments_of
from tests.kernel_compile import OPS
from tests.stub_driver import STREAM, Driver
from tests.stub_launches import launched
from tests.tuning_entries import ARCH, covering
from tile_backend import tuning_measure
from tile_backend.lowering import reference
from tile_backend.lowering.custom_op import record
from tile_backend.lowering.interpreter.launch import interpret
from tile_backend.lowering.kernels.configuration import Configuration, Named, everything
from tile_backend.lowering.launch_configuration import DEFAULT, kind_of_launch
from tile_backend.lowering.prune import Call, Candidate
from tile_backend.tuning_measure import Bench, measure


class Clock:
    """Times by name, in microseconds, with some scatter; every way is run once."""

    def __init__(self, times: Mapping[str, float], otherwise: float, scatter: float = 0.01) -> None:
        self.times, self.otherwise, self.scatter = times, otherwise, scatter
        self.asked: list[tuple[str, ...]] = []

    def __call__(
        self, ways: Mapping[str, Callable[[], object]], samples: int
    ) -> dict[str, list[float]]:
        self.asked.append(tuple(ways))
        for way in ways.values():
            way()
        scatter = [1 + self.scatter * (index % 5 - 2) for index in range(samples)]
        return {n: [self.times.get(n, self.otherwise) * s for s in scatter] for n in ways}


def bench(clock: Any, launch: Callable[..., object] | None = None) -> Bench:
    """On the CPU, with the interpreter in the place of a GPU."""

    def interpreted(kernel: Any, grid: tuple[int, int, int], arguments: tuple[Any, ...]) -> None:
        interpret(grid, kernel, arguments)

    return Bench("cpu", launch or interpreted, clock, "A GPU", "1.0")


def call_of(op: str, values: Mapping[str, Any]) -> Call:
    """The call of an op on tensors of these layouts."""
    outputs = reference.as_tuple(record(op).op.outputs(**values))
    given = [
        torch.empty_strided(v.shape, v.stride(), dtype=v.dtype, device="meta")
        if isinstance(v, torch.Tensor)
        else v
        for v in (*values.values(), *outputs)
    ]
    return Call(op, tuple(values), tuple(given), ARCH)


def norm(rows: int = 6, width: int = 300) -> Call:
    x, weight = torch.empty(rows, width), torch.empty(width)
    return call_of("rms_norm", record("rms_norm").signature.bind((x, weight, 1e-6)))


def candidates(call: Call, configurations: list[Configuration] | None = None) -> list[Candidate]:
    """As `prune` has them, without code."""
    found = configurations or everything(call.recipe)
    made = []
    for configuration in found:
        recipe = call.recipe(Named(str(configuration)))
        assert recipe is not None
        made.append(Candidate(configuration, recipe, None))  # type: ignore[arg-type]
    return made


def kind(call: Call) -> Any:
    arguments = dict(zip(call.names, call.values, strict=False))
    return kind_of_launch(call.op, arguments, call.values[len(call.names) :])


def outcome(clock: Clock, call: Call | None = None, **given: Any) -> tuning_measure.Outcome:
    call = call or norm()
    return measure(bench(clock, **given), record(call.op), call, kind(call), candidates(call)[:8])


def test_the_fastest_wins_and_the_finalists_are_timed_for_long() -> None:
    names = [c.text for c in candidates(norm())[:8]]
    clock = Clock({names[3]: 5.0, names[5]: 6.0}, 10.0)
    found = outcome(clock)
    assert found.chosen == names[3]
    assert set(found.times) == {DEFAULT, *names[1:]}
    assert clock.asked[0] == (DEFAULT, *names[1:])
    assert clock.asked[1][:3] == (DEFAULT, names[3], names[5])
    assert len(clock.asked[1]) == 1 + tuning_measure.FINALISTS
    assert found.times[names[3]].samples >= found.times[names[7]].samples


def test_less_than_the_scatter_is_no_win() -> None:
    names = [c.text for c in candidates(norm())[:8]]
    assert outcome(Clock({names[2]: 9.9}, 10.0)).chosen == DEFAULT
    assert outcome(Clock({names[2]: 9.0}, 10.0)).chosen == names[2]
    assert outcome(Clock({names[2]: 9.0}, 10.0, scatter=0.1)).chosen == DEFAULT


def test_other_results_are_left_out() -> None:
    call = norm()
    fourth = candidates(call)[3]

    def launch(kernel: Any, grid: Any, arguments: tuple[Any, ...]) -> None:
        interpret(grid, kernel, arguments)
        if kernel is fourth.recipe.kernel and grid == fourth.recipe.grid:
            out = next(a for a in reversed(arguments) if isinstance(a, torch.Tensor))
            out[0, 0] += 1.0

    found = outcome(Clock({fourth.text: 1.0}, 10.0), call, launch=launch)
    assert "OVER BUDGET" in found.wrong[fourth.text]
    assert fourth.text not in found.times
    assert found.chosen == DEFAULT


@pytest.mark.sampled(3, each=lambda op: [op.partition("_")[0]])
@pytest.mark.parametrize("op", OPS)
def test_every_choice_computes_the_same(op: str, tuning: Path) -> None:
    """In the interpreter, on ragged sizes, against the float64 oracle, as `tune` checks it."""
    if op.startswith("attention_grad"):
        values = backward_arguments(arguments_of("attention", "ragged", torch.bfloat16))
        values = record(op).signature.filled(values)
    else:
        values = arguments_of(op, "ragged", torch.bfloat16)
    call = call_of(op, values)
    found = candidates(call, covering(everything(call.recipe)))
    assert len(found) > 1
    wrong = tuning_measure.disagreeing(bench(None), record(op), call, kind(call), found)
    assert wrong == {}


@pytest.mark.stub
def test_a_way_launches_on_the_current_stream(driver: Driver) -> None:
    call = norm()
    (planned, *_) = candidates(call)
    on_gpu = dataclasses.replace(tuning_measure.on_gpu("A GPU", "1.0"), device="cpu")
    into = tuning_measure.outputs_of(on_gpu, call)
    arguments = tuning_measure.made(on_gpu, call, kind(call))
    way = tuning_measure.way(on_gpu, planned.recipe, arguments, into)
    _, (first, second) = launched(driver, lambda: (way(), way()))
    assert first.grid == second.grid == planned.recipe.grid
    assert first.stream == STREAM
