"""explain(): what would be fused, and why the rest would not, without running anything.

Dynamo captures the callable with a backend that analyses the graph and then stops the compile, so
no kernel runs, nothing is installed in Dynamo's caches, and the model and the random state are
untouched.
"""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from tile_backend import inductor, registry, scope
from tile_backend.errors import AlreadyCompiled, InternalFailure, PassFailed
from tile_backend.options import Options
from tile_backend.report import GraphFacts, Report

if TYPE_CHECKING:
    from torch import fx

    from tile_backend.lowering.analysis import Analysis
    from tile_backend.lowering.reason import Reason
    from tile_backend.lowering.site import Site

Given = ParamSpec("Given")
Found = TypeVar("Found")


def explain(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Report:
    """The report of `torch.compile(function, backend="tilegym")(*args, **kwargs)`, captured only.

    function: a module or a plain function; a compiled one is looked through.
    Options come from the environment and the `fusions(...)` scope. Where Dynamo would have to run
    real code between two graphs, the report ends there and `complete` is False.
    """
    inductor.check_supported()
    if inductor.original(function) is not function:
        name = title_of(function)
        warnings.warn(AlreadyCompiled(what=name), stacklevel=2)
    options, _ = Options.parse(None, scope=scope.active(), known=registry.names)
    captured = inductor.capture(
        inductor.original(function),
        args,
        kwargs,
        functools.partial(looked_at, options, title_of(function)),
    )
    return report_of(captured, title_of(function), options)


def looked_at(
    options: Options, title: str, module: fx.GraphModule
) -> tuple[tuple[Site, ...], GraphFacts, dict[str, str]]:
    """What is found in the captured graph, which is rewritten here: nobody else has it."""
    from tile_backend import graph_listing, pipeline
    from tile_backend.lowering.reason import Reason

    break_reason = inductor.break_reason(module)
    found = tried(options, pipeline.analyse, module, options)
    if isinstance(found, Reason):
        return (), GraphFacts(break_reason=break_reason, failures=(found,)), {}
    facts = pipeline.facts(module, found, break_reason)
    before = tried(options, graph_listing.Before.of, module, title)
    done = tried(options, rewritten, found)
    if isinstance(done, Reason):  # a compile says the same, and goes on without the rewrite
        return found.sites, dataclasses.replace(facts, failures=(*found.failures, done)), {}
    facts = dataclasses.replace(facts, failures=done.failures)
    texts = {} if isinstance(before, Reason) else tried(options, before.texts, module, done.sites)
    return done.sites, facts, {} if isinstance(texts, Reason) else texts


def rewritten(found: Analysis) -> Analysis:
    """What is in the graph then."""
    from tile_backend.lowering import custom_op

    if found.ops:
        custom_op.define_each(registry.known_fusions())
    return found.apply()


def tried(
    options: Options, step: Callable[Given, Found], *args: Given.args, **kwargs: Given.kwargs
) -> Found | Reason:
    """What the step gives. A failure is said, and raised under a strict mode, as in a compile."""
    from tile_backend.lowering import failure
    from tile_backend.lowering.reason import Reason

    found = failure.tried("looking at the graph", None, step, *args, **kwargs)
    if isinstance(found, Reason):
        if options.strict != "off":
            raise PassFailed(cause=found.text, strict=options.strict)
        warnings.warn(InternalFailure(cause=found.text), stacklevel=2)
    return found


def report_of(captured: inductor.Capture, title: str, options: Options) -> Report:
    """The report of one captured graph, ended where Dynamo would have run real code."""
    report = Report(title)
    if captured.visited is not None:
        report = report.extended(*captured.visited)
    if captured.break_reason:
        report = report.ended(captured.break_reason)
    options.warn_unmatched_globs(site.module for site in report.sites)
    return report


def title_of(function: Any) -> str:
    """The class of a model, the name of a function."""
    function = inductor.original(function)
    function = getattr(function, "__self__", function)
    return str(getattr(function, "__name__", type(function).__name__))
