"""One launch, measured: its configurations on random tensors of its sizes, against each other.

A configuration whose results are outside the budget, as far as the plan's own stays from the
reference, is left out. The rest are timed in turn: all of them shortly, then the fastest together
with the plan's own until the medians are known. Another configuration wins only by more than the
times scatter.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from tile_backend import repro
from tile_backend.lowering import cuda_state, device_clock, oracle, reference
from tile_backend.lowering.custom_op import Record
from tile_backend.lowering.device_clock import Clock, spread, until_narrow
from tile_backend.lowering.kernels.configuration import Named
from tile_backend.lowering.launch_configuration import DEFAULT
from tile_backend.lowering.launch_recipe import Recipe
from tile_backend.lowering.prune import Call, Candidate
from tile_backend.lowering.tuning_entry import Kind, Spread

PARTS = ("splits", "weight_parts", "bias_parts")
"""Arguments that say into how many parts a sum is divided."""
FINALISTS = 4
"""Configurations that are timed for long, beside the plan's own."""


@dataclasses.dataclass(frozen=True)
class Bench:
    """Where launches are measured.

    device: of the tensors. launch: (kernel, grid, arguments), on that device. clock: of its time.
    gpu, driver: their names, as they are recorded.
    """

    device: str
    launch: Callable[[Any, tuple[int, int, int], tuple[Any, ...]], object]
    clock: Clock
    gpu: str
    driver: str


@dataclasses.dataclass(frozen=True)
class Outcome:
    """times: of each way, DEFAULT among them. chosen: one of these. wrong: configuration -> how
    its results differ.
    """

    times: Mapping[str, Spread]
    chosen: str
    wrong: Mapping[str, str]


def on_gpu(gpu: str, driver: str) -> Bench:
    """The current CUDA device."""
    run = importlib.import_module("cuda.tile").launch

    def launch(kernel: Any, grid: tuple[int, int, int], arguments: tuple[Any, ...]) -> None:
        run(cuda_state.raw_stream(cuda_state.current_device()), grid, kernel, arguments)

    return Bench("cuda", launch, device_clock.time_rounds, gpu, driver)


def measure(
    bench: Bench, record: Record, call: Call, kind: Kind, candidates: Sequence[Candidate]
) -> Outcome:
    """candidates: of the call, the plan's own first."""
    arguments = made(bench, call, kind)
    wrong = disagreeing(bench, record, call, kind, candidates)
    buffers = outputs_of(bench, call)
    ways = {
        DEFAULT if candidate is candidates[0] else candidate.text: way(
            bench, candidate.recipe, arguments, buffers
        )
        for candidate in candidates
        if candidate.text not in wrong
    }
    times, chosen = race(bench.clock, ways)
    return Outcome(times, chosen, wrong)


def race(clock: Clock, ways: Mapping[str, Callable[[], object]]) -> tuple[dict[str, Spread], str]:
    """The times of all ways, and the one to take; DEFAULT, which is among them, unless beaten."""
    times = {name: spread(found) for name, found in clock(ways, device_clock.FEWEST).items()}
    others = sorted(ways.keys() - {DEFAULT}, key=lambda name: times[name].median)
    final = {name: ways[name] for name in (DEFAULT, *others[:FINALISTS])}
    if len(final) > 1:
        times |= {name: spread(taken) for name, taken in until_narrow(clock, final).items()}
    best = min(final, key=lambda name: times[name].median)
    return times, best if times[best].beats(times[DEFAULT]) else DEFAULT


def way(
    bench: Bench, recipe: Recipe, arguments: Sequence[Any], outputs: Sequence[torch.Tensor | None]
) -> Callable[[], object]:
    """A launch that may be repeated."""
    passed = recipe.arguments((*arguments, *outputs))
    return lambda: bench.launch(recipe.kernel, recipe.grid, passed)


def made(bench: Bench, call: Call, kind: Kind) -> list[Any]:
    """Random arguments as the call's lie in memory."""
    given = zip(call.names, call.values, strict=False)
    return [example(bench, name, value, kind) for name, value in given]


def example(bench: Bench, name: str, value: Any, kind: Kind) -> Any:
    """One of them. Queries of a cache are its last ones: they see all of its keys."""
    if not isinstance(value, torch.Tensor):
        return value
    tensor = repro.tensor(value.shape, value.stride(), str(value.dtype), bench.device)
    if name == "offset" and {"keys", "queries"} <= kind.sizes.keys():
        tensor.fill_(max(kind.sizes["keys"] - kind.sizes["queries"], 0))
    return tensor


def outputs_of(bench: Bench, call: Call) -> list[torch.Tensor | None]:
    """Room for its results, laid out as the call's; None for one that nobody reads."""
    return [
        None
        if out is None
        else torch.empty_strided(out.shape, out.stride(), dtype=out.dtype, device=bench.device)
        for out in call.values[len(call.names) :]
    ]


def disagreeing(
    bench: Bench, record: Record, call: Call, kind: Kind, candidates: Sequence[Candidate]
) -> dict[str, str]:
    """The candidates whose results are outside the budget, and by how much."""
    call = undivided(record, call)
    arguments = made(bench, call, kind)

    def results(candidate: Candidate) -> list[torch.Tensor]:
        into = outputs_of(bench, call)
        recipe = call.recipe(Named(candidate.text))
        assert recipe is not None, "a call without elements has no candidates"
        way(bench, recipe, arguments, into)()
        return [out for out in into if out is not None]

    own = results(candidates[0])
    exact = exactly(record, call, arguments, own)
    wrong = {}
    for candidate in candidates[1:]:
        verdict = oracle.within_budget(results(candidate), exact, own)
        if not verdict:
            wrong[candidate.text] = str(verdict)
    return wrong


def undivided(record: Record, call: Call) -> Call:
    """The call with its sums in one part: which rows or keys a part has is a kernel's own choice,
    so that parts cannot be compared.
    """
    count = len(call.names)
    arguments = dict(zip(call.names, call.values, strict=False))
    parts = {name: 1 for name in PARTS if arguments.get(name)}
    if not parts:
        return call
    arguments |= parts
    made = reference.as_tuple(record.op.outputs(**arguments))
    read = [
        None if old is None else out for old, out in zip(call.values[count:], made, strict=True)
    ]
    return dataclasses.replace(call, values=(*arguments.values(), *read))


def exactly(
    record: Record, call: Call, arguments: Sequence[Any], own: Sequence[torch.Tensor]
) -> list[torch.Tensor]:
    """What the results are measured against: the reference in float64, as it is where there is no
    room for that, and the results of the plan's own configuration where there is none at all.
    """
    named = dict(zip(call.names, arguments, strict=True))
    read = [v is not None for v in call.values[len(call.names) :]]
    for function in (oracle.float64(record.op.reference), record.op.reference):
        try:
            with torch.no_grad():
                found = reference.as_tuple(function(**named))
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            continue
        return [out for out, wanted in zip(found, read, strict=True) if wanted]
    return list(own)
