"""Timing the ways of a slice, in the middle of a compile and leaving no trace of it.

Every way is compiled by the compiler of the rest of the program, forward and backward where the
slice trains, and run on the same random inputs. The clock takes them turn by turn. What is in the
way of it is a CannotRun with words for the report; the static rule decides then.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import fx

from tile_backend.lowering import (
    circumstances,
    device_clock,
    memory_bound,
    random_inputs,
    real_tensors,
)
from tile_backend.lowering.autocast_state import entered
from tile_backend.lowering.device import Gpu
from tile_backend.lowering.device_clock import Clock
from tile_backend.lowering.evidence import fastest
from tile_backend.lowering.real_tensors import CannotRun
from tile_backend.lowering.same_bits import Compile
from tile_backend.lowering.trial import Outcome, as_tensors, leaves, outcome
from tile_backend.lowering.tuning_entry import INDUCTOR, Entry, Kind, Spread, bucket
from tile_backend.lowering.tuning_sources import sources_behind
from tile_backend.lowering.ways import Way, Ways

OUT_OF_MEMORY = (MemoryError, torch.OutOfMemoryError)


@dataclasses.dataclass(frozen=True)
class Measuring:
    """compiles: the compiler, with the user's settings. given: the tensors that the program was
    called with, by input of the graph. clock: see device_clock.
    driver: its version, for the record. on: the device to measure on, where the graph's is none.
    """

    compiles: Compile
    given: Mapping[fx.Node, torch.Tensor]
    clock: Clock = device_clock.time_rounds
    driver: str = "unknown"
    on: torch.device | None = None


def entry(found: Ways, kind: Kind, gpu: Gpu, measuring: Measuring) -> Entry:
    """What is to be stored. Raises CannotRun."""
    try:
        times = spreads(found, measuring)
    except CannotRun:
        raise
    except OUT_OF_MEMORY as error:
        raise CannotRun(f"too large: {first_line(error)}") from error
    except Exception as error:
        raise CannotRun(f"{type(error).__name__}: {first_line(error)}") from error
    way = fastest(times, {name: found.ops(name) for name in times})
    ranges = {name: bucket(size) for name, size in kind.sizes.items()}
    here = circumstances.here(gpu.name, sources_behind("gate", kind.text), measuring.driver)
    return Entry("gate", kind.text, ranges, dict(kind.sizes), times, way, here)


def first_line(error: BaseException) -> str:
    return (str(error).splitlines() or ["no message"])[0]


def spreads(found: Ways, measuring: Measuring) -> dict[Way, Spread]:
    """Microseconds of each way."""
    here = measuring.on or found.device
    if here.type == "cuda" and not torch.cuda.is_available():
        raise CannotRun("there is no GPU here")
    memory_bound.check(found.values, found.trains, here)
    from tile_backend.lowering import inductor_ir  # imports Inductor

    inductor_ir.install({c.match.fusion for sites in found.chosen.values() for c in sites})
    with contextlib.ExitStack() as stack:
        if here.type == "cuda":
            stack.enter_context(torch.cuda.device(here))
        stack.enter_context(real_tensors.isolated(here))
        stack.enter_context(entered(found.autocast))
        codes = {way: moved(code, here) for way, code in found.codes.items()}
        inputs, cotangents = material(found, measuring, codes[INDUCTOR], here)
        runs = {
            way: compiled(code, inputs, cotangents, measuring.compiles)
            for way, code in codes.items()
        }
        check({way: run() for way, run in runs.items()})
        times = device_clock.until_narrow(measuring.clock, runs)
    return {way: device_clock.spread(samples) for way, samples in times.items()}


Material = tuple[list[torch.Tensor], list[torch.Tensor | None]]


def moved(code: fx.GraphModule, device: torch.device) -> fx.GraphModule:
    """With the devices that are spelled out in it replaced."""
    for node in code.graph.nodes:
        args, kwargs = fx.node.map_aggregate(
            (node.args, node.kwargs), lambda a: device if isinstance(a, torch.device) else a
        )
        node.args, node.kwargs = args, kwargs
    code.recompile()
    return code


def material(
    found: Ways, measuring: Measuring, original: fx.GraphModule, device: torch.device
) -> Material:
    """The inputs of all ways, and the gradients that the results get."""
    generator = torch.Generator(device).manual_seed(0)
    given = random_inputs.values(found.inputs, measuring.given, found.trains, generator)
    inputs = [tensor.to(device) for tensor in given]
    with torch.no_grad():
        inputs += as_tensors(moved(found.leading, device)(*inputs))
    if not found.trains:
        return inputs, [None] * len(found.roots)
    results = as_tensors(original(*leaves(inputs)))
    return inputs, [
        random_inputs.like(result, generator) if result.requires_grad else None
        for result in results
    ]


def compiled(
    code: fx.GraphModule,
    inputs: Sequence[torch.Tensor],
    cotangents: Sequence[torch.Tensor | None],
    compiles: Compile,
) -> Callable[[], Outcome]:
    """Runs it once."""
    function = compiles(code, leaves(inputs))

    def run() -> Outcome:
        if any(cotangent is not None for cotangent in cotangents):
            return outcome(function, inputs, cotangents)
        with torch.no_grad():
            return list(as_tensors(function(*inputs)))

    return run


def check(results: Mapping[Way, Outcome]) -> None:
    """Raise CannotRun where a way gives what no other does: it would be timed for nothing."""
    theirs = results[INDUCTOR]
    for way, ours in results.items():
        for a, b in zip(ours, theirs, strict=True):
            if a is None or b is None:
                continue
            if a.shape != b.shape:
                raise CannotRun(f"{way} gives {list(a.shape)}, the original {list(b.shape)}")
            if is_finite(b) and not is_finite(a):
                raise CannotRun(f"{way} gives values that are not finite")


def is_finite(tensor: Any) -> bool:
    return bool(torch.isfinite(tensor).all())
