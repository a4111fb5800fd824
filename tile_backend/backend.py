"""The backend "tilegym": analyse Dynamo's graph, put in the ops that the gate chose, call Inductor.

A failure of ours never costs the user the compile: the graph goes to Inductor as it came, with one
warning (an error when `tilegym.strict` is not "off").
"""

from __future__ import annotations

import functools
import logging
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import fx

from tile_backend import (
    bisection,
    compiler_bisector,
    dropped_logits,
    generated_code,
    graph_listing,
    inductor,
    pipeline,
    registry,
    scope,
    sessions,
    trust,
    weighing,
)
from tile_backend.errors import AlreadyCompiled, FallbackRefused, InternalFailure, PassFailed
from tile_backend.inductor_alone import InductorAlone
from tile_backend.lowering import analysis, guards, inductor_ir, recompute, site_kernels, undo
from tile_backend.lowering.analysis import Analysis
from tile_backend.lowering.site_kernels import LaunchSite
from tile_backend.options import Options

LOGGER = logging.getLogger(__name__)


def tilegym(
    module: fx.GraphModule,
    inputs: Sequence[Any],
    *,
    mode: str | None = None,
    options: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> Callable[..., Any]:
    """Called by Dynamo for each graph. kwargs: torch 2.15 passes `name=`."""
    inductor.check_supported()
    inductor.keep_told_of_resets(tilegym)
    ours, theirs = Options.parse(options, scope=scope.active(), known=registry.names)
    inductor.check_options(theirs)
    mode, name = mode or ours.mode, kwargs.get("name")
    if ours.disabled:
        return inductor.Inductor(mode, theirs, name).compile(module, inputs)
    passes: dict[str, Any] = {}
    found, generated = rewritten(module, ours, inputs, InductorAlone(mode, theirs))
    if found is not None and found.ops:
        identity = pipeline.identity(ours)
        passes["pre_grad_custom_pass"] = inductor.Identity(identity)
        passes["joint_custom_post_pass"] = recompute.RecomputeCheapOps(identity)
    with inductor_ir.written_launches() as launches:
        compiled = inductor.Inductor(mode, theirs, name, passes, generated).compile(module, inputs)
    if found is not None and any(site.decision == "kernel" for site in found.sites):
        prepare(launches, ours)
    return dropped_logits.returning(compiled, found.dropped if found is not None else ())


def reset() -> None:
    """What torch.compiler.reset() asks of a backend."""
    inductor.reset()
    sessions.reset()


tilegym.reset = reset  # type: ignore[attr-defined]
compiler_bisector.register()


def rewritten(
    module: fx.GraphModule, options: Options, inputs: Sequence[Any], compiles: InductorAlone
) -> tuple[Analysis | None, generated_code.Receive | None]:
    """Analyse and rewrite in place, then report. None after a failure, with the graph as it was.

    inputs: what the graph is called with. compiles: see trust.settled. The second result is told of
    the generated code, where a dump wants it.
    """
    started = time.perf_counter()
    log, where = undo.Log(module), inductor.place()
    if where.compiled_before:
        warnings.warn(AlreadyCompiled(what=where.title), stacklevel=2)
    try:
        log.save(analysis.bodies(module))
        with guards.none_added(module.graph):
            means = weighing.means(options, module, inputs, compiles)
            found = pipeline.analyse(module, options, where.prefix, compiles=True, means=means)
            if found.ops:
                inductor_ir.install(registry.known_fusions())
            found = bisection.limited(trust.settled(found, options, module, inputs, compiles))
            facts = pipeline.facts(module, found, inductor.break_reason(module))
            dumped = bool(sessions.dump_folders(options, where.title))
            before = graph_listing.Before.of(module, where.title, where.prefix) if dumped else None
            found.apply()
            texts = before.texts(module, found.sites) if before is not None else {}
    except Exception as error:
        log.restore()
        if options.strict != "off":
            raise PassFailed(cause=describe(error), strict=options.strict) from error
        warnings.warn(InternalFailure(cause=describe(error)), stacklevel=2)
        return None, None
    seconds = time.perf_counter() - started
    session = sessions.of(inductor.caller(), where.title, options)
    graph = session.add(inductor.compile_attempt(), found.sites, facts, seconds, texts)
    return found, functools.partial(session.generated, graph) if before is not None else None


def prepare(launches: Sequence[LaunchSite], options: Options) -> None:
    """Compile what is still missing for the launches as Inductor laid them out.

    What cannot be compiled runs its reference, and warns when it does.
    """
    try:
        problems = site_kernels.prepare(launches)
    except Exception as error:
        if options.strict != "off":
            raise PassFailed(cause=describe(error), strict=options.strict) from error
        LOGGER.warning("kernels are compiled at their first launch: %s", describe(error))
        return
    if problems and options.strict == "no-fallback":
        lines = dict.fromkeys(f"  {site.place}: {reason}" for site, reason in problems)
        raise FallbackRefused(count=len(problems), remarks="\n".join(lines))


def describe(error: Exception) -> str:
    """Class and message of an error."""
    return f"{type(error).__name__}: {error}"
