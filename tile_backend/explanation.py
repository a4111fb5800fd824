"""explain(): what would be fused, and why the rest would not, without running anything.

Dynamo captures the callable with a backend that analyses the graph and then stops the compile, so
no kernel runs, nothing is installed in Dynamo's caches, and the model and the random state are
untouched.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tile_backend import inductor, registry, scope
from tile_backend.errors import AlreadyCompiled, InternalFailure
from tile_backend.options import Options
from tile_backend.report import GraphFacts, Report

if TYPE_CHECKING:
    from torch import fx

    from tile_backend.lowering.analysis import Analysis


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
) -> tuple[Analysis, GraphFacts, dict[str, str]]:
    """What is found in the captured graph, which is rewritten here: nobody else has it."""
    from tile_backend import graph_listing, pipeline
    from tile_backend.lowering import custom_op

    found = pipeline.analyse(module, options)
    facts = pipeline.facts(module, found, inductor.break_reason(module))
    before = graph_listing.Before.of(module, title)
    try:
        if found.ops:
            custom_op.define(registry.known_fusions())
        found.apply()
        return found, facts, before.texts(module, found.sites)
    except Exception as error:  # noqa: BLE001 - said, and costs nothing but the texts
        # A compile will say the same, and go on without the rewrite.
        warnings.warn(InternalFailure(cause=f"{type(error).__name__}: {error}"), stacklevel=2)
        return found, facts, {}


def report_of(captured: inductor.Capture, title: str, options: Options) -> Report:
    """The report of one captured graph, ended where Dynamo would have run real code."""
    report = Report(title)
    if captured.visited is not None:
        found, facts, texts = captured.visited
        report = report.extended(found.sites, facts, texts)
    if captured.break_reason:
        report = report.ended(captured.break_reason)
    options.warn_unmatched_globs(site.module for site in report.sites)
    return report


def title_of(function: Any) -> str:
    """The class of a model, the name of a function."""
    function = inductor.original(function)
    function = getattr(function, "__self__", function)
    return str(getattr(function, "__name__", type(function).__name__))
