"""walkthrough(): one small module through every stage, from its source to its kernel.

Dynamo captures the module as `explain` does, and every stage up to the generated code is made while
the graph is there: nothing is installed in torch's caches, and no compiled code runs. Only the last
stage runs something: the op, on random tensors.
"""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tile_backend import (
    atomic_files,
    inductor,
    pipeline,
    registry,
    scope,
    tour_compile,
    tour_decision,
    tour_kernel,
    tour_launch,
    tour_match,
    tour_rewrite,
    tour_run,
    tour_source,
    tour_subject,
    tour_terms,
)
from tile_backend.errors import AlreadyCompiled, FileNotSaved, ReportFolderError
from tile_backend.explanation import title_of
from tile_backend.lowering import gate
from tile_backend.lowering.plan import Candidate
from tile_backend.options import Options
from tile_backend.pattern_cache import registry_of
from tile_backend.tour_stage import Stage

if TYPE_CHECKING:
    from torch import fx

    from tile_backend.lowering.site import OpCall, Site
    from tile_backend.tour_subject import Subject

HINT = "to_text(full=True)"


@dataclasses.dataclass(frozen=True)
class Walkthrough:
    """The stages of one module. site: the one shown, None where there is none. others: named only.

    stopped: why the graph is not all of the function, or "".
    """

    title: str
    stages: tuple[Stage, ...]
    site: Site | None = None
    others: tuple[Site, ...] = ()
    stopped: str = ""

    def __str__(self) -> str:
        return self.to_text()

    def stage(self, name: str) -> Stage:
        """By its one-word name, "dynamo". Raises KeyError."""
        found = {stage.name: stage for stage in self.stages}
        return found[name]

    def to_text(self, full: bool = False, hint: str = HINT) -> str:
        """Plain text. full: with every line of every artefact; else `hint` says how to get them."""
        from tile_backend.tour_text import render

        return render(self, full, hint)

    def to_html(self) -> str:
        """One page that needs no network."""
        from tile_backend.tour_page import page

        return page(self)

    def save(self, path: str | Path) -> Path:
        """Write the page where the name ends in .html, else the whole text. Returns the path.

        Raises FileNotSaved.
        """
        target = Path(path)
        is_page = target.suffix in (".html", ".htm")
        text = self.to_html() if is_page else f"{self.to_text(full=True)}\n"
        try:
            atomic_files.write_text(target, text)
        except ReportFolderError as error:
            cause = error.fields["cause"]
            raise FileNotSaved(path=str(target), cause=cause) from error
        return target


def walkthrough(
    module: Callable[..., Any], *inputs: Any, site: str = "", **kwargs: Any
) -> Walkthrough:
    """The tour of `module(*inputs, **kwargs)`; with a backward where a gradient is wanted.

    site: which of several to show: a fusion, a module path, or both
    ("attention@model.layers.0.*"); unless given the one with most to show, the others are named.
    Raises NoSuchSite.
    """
    inductor.check_supported()
    title = title_of(module)
    if inductor.original(module) is not module:
        warnings.warn(AlreadyCompiled(what=title), stacklevel=2)
    options, _ = Options.parse(None, scope=scope.active(), known=registry.names)
    visit = functools.partial(visited, options, title, site)
    captured = inductor.capture(inductor.original(module), inputs, kwargs, visit)
    if captured.visited is None:
        return Walkthrough(title, (no_graph(captured.break_reason),), stopped=captured.break_reason)
    stages, shown, others, call = captured.visited
    if call is not None:
        last = stages[-1]
        stages = (*stages, tour_run.run(call, last.missing if last.name == "kernel" else ""))
    return Walkthrough(title, stages, shown, others, captured.break_reason)


Visited = tuple[tuple[Stage, ...], "Site | None", "tuple[Site, ...]", "OpCall | None"]


def visited(options: Options, title: str, site: str, module: fx.GraphModule) -> Visited:
    """All stages that need the graph, which the last of them change."""
    found = pipeline.analyse(module, options)
    subject = tour_subject.subject(module, found, title, site)
    known = registry_of(registry.known_fusions())
    stages = [
        tour_source.source(subject),
        tour_source.dynamo(subject),
        tour_terms.terms(subject),
        tour_match.match(subject, known),
    ]
    candidate = subject.candidate
    if candidate is not None:
        stages.append(tour_decision.plan(subject, candidate, known))
    if candidate is None or candidate.reason is not None or candidate.call is None:
        stages.append(end(subject))
        return tuple(stages), subject.site, subject.others, None
    stages.append(tour_decision.decision(subject, candidate, candidate.call))
    later, call = put_in(subject, options)
    return (*stages, *later), subject.site, subject.others, call


def put_in(subject: Subject, options: Options) -> tuple[tuple[Stage, ...], OpCall | None]:
    """The stages of the op itself. It is put in whatever the gate says."""
    site, whole = subject.site, subject.whole
    assert site is not None
    assert subject.at is not None
    forced = pipeline.analyse(whole, dataclasses.replace(options, kernels="always"))
    again = forced.sites[subject.at]
    origin = forced.origins[subject.at]
    left = site.decision is None or not site.decision.op_in_graph
    rewritten = tour_rewrite.rewrite(dataclasses.replace(subject, sites=forced.sites), forced, left)
    assert isinstance(origin, Candidate)
    call = origin.call
    assert call is not None
    compiled, launches = tour_compile.compiled(whole, gate.device_of(call))
    fusion, arch = origin.match.fusion, gate.architecture(gate.device_of(call))
    made = functools.partial(tour_launch.planned, call, launches, fusion, again, arch)
    with torch.no_grad():
        kernels = tour_kernel.kernel(call, fusion, arch, made)
    return (rewritten, *compiled, *kernels), again.call


def end(subject: Subject) -> Stage:
    """Where nothing is rewritten."""
    says = (
        "The operations stay as they are: the graph goes to Inductor with them, and the result is"
        ' what it would be with backend="inductor". The tour ends here.'
    )
    if subject.others:
        says += " Other sites of this graph can be shown, see the end of this page."
    return Stage("end", "What happens instead", says)


def no_graph(reason: str) -> Stage:
    """Dynamo captured nothing."""
    why = reason or "the function calls nothing of PyTorch"
    says = f"Dynamo made no graph of it, so the backend was never asked: {why}."
    return Stage("dynamo", "Dynamo's graph", says)
