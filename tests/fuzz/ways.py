"""How a program is compiled: by our pipeline alone, by Dynamo and our pipeline, or for good.

  graph     captured without Dynamo, analysed, rewritten, run as plain code with the ops' references
  dynamo    captured by torch.compile, then the same; dynamic sizes and branches need it
  aot       the backend, which does all but generate code
  inductor  the backend as users have it

What fails without our rewrites as well, in the same way, is torch's and no failure.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
import torch._dynamo
from torch import fx

import tile_backend
from tests.core_edits import quiet
from tests.fuzz import capture
from tests.fuzz.limits import Limits
from tests.fuzz.outcome import NotCaptured, Ours, Verdict, judged
from tests.fuzz.program import Program
from tile_backend import inductor, pipeline, registry, trust
from tile_backend.inductor_alone import InductorAlone
from tile_backend.lowering import custom_op
from tile_backend.lowering.analysis import Analysis
from tile_backend.lowering.reason import Reason, ReasonKind
from tile_backend.lowering.site import Site
from tile_backend.options import Options

Capture = Literal["graph", "dynamo", "aot", "inductor"]
COMPILED = {"cond": torch.cond}
"""What a name means where the program is compiled."""


@dataclasses.dataclass(frozen=True)
class Way:
    """kernels, verify: options of the backend."""

    capture: Capture = "graph"
    kernels: str = "always"
    verify: str = "off"

    def __str__(self) -> str:
        return " ".join([self.capture, self.kernels, *["verified"] * (self.verify != "off")])

    @property
    def options(self) -> Options:
        return Options(kernels=self.kernels, verify=self.verify)

    @property
    def given(self) -> dict[str, str]:
        options = {"kernels": self.kernels, "verify": self.verify}
        return {f"tilegym.{name}": value for name, value in options.items()}


@dataclasses.dataclass
class Tried:
    """program: as it was run. sites: what was found in it."""

    program: Program
    verdict: Verdict
    sites: tuple[Site, ...] = ()

    def rewritten(self) -> Counter[str]:
        """By fusion, the sites that are no longer the original code."""
        return Counter(site.fusion for site in self.sites if is_rewritten(site))


def is_rewritten(site: Site) -> bool:
    decision = site.decision
    return decision is not None and (decision.op_in_graph or decision.respelled)


def tried(program: Program, way: Way = Way()) -> Tried:
    """The program compiled that way, for each of its sizes in turn."""
    custom_op.define(registry.known_fusions())
    sites: list[Site] = []
    make = {"graph": graph, "dynamo": dynamo, "aot": backend, "inductor": backend}[way.capture]

    def limits() -> Limits:
        there = {site.fusion for site in sites if is_rewritten(site)}
        return Limits(bool(there), "attention" in there and way.kernels == "interpret")

    def made(program: Program) -> Ours:
        sites.clear()
        return dataclasses.replace(make(program, way, sites), limits=limits)

    around = inductor.without_codegen() if way.capture == "aot" else contextlib.nullcontext()
    with around, quiet():
        ran, verdict = judged(program, made)
    return Tried(ran, verdict, tuple(sites))


def graph(program: Program, way: Way, sites: list[Site]) -> Ours:
    """The program with our ops in it, as plain code; the control is what was captured.

    A graph has no checkpoint that runs its body again: what is written to after it is another value
    there, or raises.
    """
    inputs = program.tensors()

    def again() -> capture.Captured:
        return capture.captured(program.traceable, program.file, inputs)

    try:
        captured = again()
    except Exception as error:
        raise NotCaptured(str(error)) from error
    given = [inputs[name] for name in captured.taken]
    sites += rewritten(captured.module, way.options, given).sites

    def control(**inputs: torch.Tensor) -> Any:
        return again().function(**inputs)

    return Ours(captured.function, control, strides=captured.strides)


class OwnFailure(Exception):
    """Something of ours has failed. It costs a user one site, and is a bug all the same."""


def none_failed(sites: Sequence[Site], failures: Sequence[Reason]) -> None:
    for reason in (*failures, *(site.reason for site in sites)):
        if reason is not None and reason.kind is ReasonKind.INTERNAL_FAILURE:
            raise OwnFailure(reason.text)


def rewritten(module: fx.GraphModule, options: Options, inputs: Sequence[Any]) -> Analysis:
    """As tile_backend.backend does it, but that a failure of ours is raised."""
    found = pipeline.analyse(module, options)
    found = trust.settled(found, options, module, inputs, InductorAlone(None, {}))
    applied = found.apply()
    none_failed(applied.sites, applied.failures)
    return found


def dynamo(program: Program, way: Way, sites: list[Site]) -> Ours:
    """The same for each graph of a compile."""

    def rewrites(module: fx.GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
        sites.extend(rewritten(module, way.options, inputs).sites)
        return module

    function = program.compiled(program.source, **COMPILED)
    return Ours(compiled(program, function, rewrites), compiled(program, function, "eager"))


def backend(program: Program, way: Way, sites: list[Site]) -> Ours:
    """The backend that users have; its report says what was found."""
    function = program.compiled(program.source, **COMPILED)
    ours = compiled(program, function, "tilegym", way.given)

    def reported(**inputs: torch.Tensor) -> Any:
        results = ours(**inputs)
        report = tile_backend.last_report()
        if report is not None:
            sites[:] = report.sites
            none_failed(sites, [reason for graph in report.graphs for reason in graph.failures])
        return results

    plain = inductor.Inductor(None, {}).compile
    return Ours(reported, compiled(program, function, lambda module, given: plain(module, given)))


def compiled(program: Program, function: Any, backend: Any, options: Any = None) -> Any:
    """The control and ours are compiled anew, each when it is called."""
    dynamic = True if len(program.sizes) > 1 else None
    made: list[Any] = []

    def called(**inputs: torch.Tensor) -> Any:
        if not made:
            torch._dynamo.reset()
            made.append(torch.compile(function, backend=backend, dynamic=dynamic, options=options))
        return made[0](**inputs)

    return called
