"""The backend "tilegym": analyse Dynamo's graph, put in the ops that the gate chose, call Inductor.

A failure of ours never costs the user the compile. At one site it costs that site
(lowering/failure.py); else the graph goes to Inductor as it came, with one warning (an error when
`tilegym.strict` is not "off"), also where it is Inductor that cannot do with what we made of it.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import fx

from tile_backend import (
    bisection,
    compile_state,
    compiler_bisector,
    dropped_logits,
    graph_listing,
    inductor,
    pipeline,
    registry,
    scope,
    sessions,
    trust,
    weighing,
)
from tile_backend.errors import (
    AlreadyCompiled,
    CompileFailed,
    FallbackRefused,
    InternalFailure,
    PassFailed,
    ReportIncomplete,
)
from tile_backend.inductor import Inductor
from tile_backend.inductor_alone import InductorAlone
from tile_backend.lowering import (
    analysis,
    failure,
    guards,
    inductor_ir,
    joint_graph,
    site_kernels,
    undo,
)
from tile_backend.lowering.analysis import Analysis
from tile_backend.lowering.reason import Reason, ReasonKind
from tile_backend.lowering.site_kernels import LaunchSite
from tile_backend.one_graph import Retries
from tile_backend.options import Options
from tile_backend.report import GraphFacts

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
    ours, theirs = Options.parse(options, scope=scope.active(), known=registry.names)
    inductor.check_options(theirs)
    plain = Inductor(mode or ours.mode, theirs, kwargs.get("name"))
    what = "asking to be told of resets"
    failure.instead(None, what, None, inductor.keep_told_of_resets, tilegym)
    if ours.disabled:
        return plain.compile(module, inputs)
    log = undo.Log(module)
    done = rewritten(module, ours, inputs, plain, log)
    if done is None:
        return plain.compile(module, inputs)
    return compiled(module, ours, inputs, plain, log, done)


def reset() -> None:
    """What torch.compiler.reset() asks of a backend."""
    inductor.reset()
    sessions.reset()


tilegym.reset = reset  # type: ignore[attr-defined]
compiler_bisector.register()


@dataclasses.dataclass(frozen=True)
class Rewritten:
    """found: what is in the graph now. compiler: Inductor, with our passes where ops are in it.

    give_up: to be told why, where the graph is compiled as it came after all.
    """

    found: Analysis
    compiler: Inductor
    give_up: Callable[[Reason], None]


def rewritten(
    module: fx.GraphModule, options: Options, inputs: Sequence[Any], plain: Inductor, log: undo.Log
) -> Rewritten | None:
    """Analyse and rewrite in place, then report. None after a failure, with the graph as it was.

    inputs: what the graph is called with. plain: Inductor, with what the user asked of it.
    """
    started = time.perf_counter()
    try:
        where = inductor.place()
        if where.compiled_before:
            warnings.warn(AlreadyCompiled(what=where.title), stacklevel=2)
        log.save(analysis.bodies(module))
        compiles = InductorAlone(plain.mode, plain.options)
        with guards.none_added(module.graph):
            means = weighing.means(options, module, inputs, compiles)
            found = pipeline.analyse(module, options, where.prefix, compiles=True, means=means)
            found = bisection.limited(trust.settled(found, options, module, inputs, compiles))
            facts = pipeline.facts(module, found, inductor.break_reason(module))
            wanted = bool(sessions.dump_folders(options, where.title))
            found, texts = applied(found, module, (where.title, where.prefix) if wanted else None)
        compiler = with_passes(plain, found, options)
        session = sessions.of(inductor.caller(), where.title, options)
        attempt = inductor.compile_attempt()
    except Exception as error:
        log.restore()
        if failure.passes(error):
            raise
        if options.strict != "off":
            raise PassFailed(cause=failure.said(error), strict=options.strict) from error
        warnings.warn(InternalFailure(cause=failure.said(error)), stacklevel=2)
        why = failure.reason(error, "looking at the graph")
        failure.instead(None, "reporting a failure", None, report_failure, module, options, why)
        return None
    seconds = time.perf_counter() - started
    facts = dataclasses.replace(facts, failures=found.failures)
    given = attempt, found.sites, facts, seconds, texts
    graph = reported(options, session, *given)
    if graph is None:
        return Rewritten(found, compiler, lambda reason: None)
    if wanted:
        told = functools.partial(session.generated, graph)
        compiler = dataclasses.replace(compiler, generated=told)
    return Rewritten(found, compiler, functools.partial(session.given_up, graph))


def reported(options: Options, session: sessions.Session, *given: Any) -> sessions.Graph | None:
    """What the session made of the graph; None where that failed, which costs the report."""
    try:
        return session.add(*given)
    except Exception as error:
        if failure.passes(error):
            raise
        if options.strict != "off":
            raise PassFailed(cause=failure.said(error), strict=options.strict) from error
        LOGGER.debug("the report failed", exc_info=error)
        warnings.warn(ReportIncomplete(cause=failure.said(error)), stacklevel=2)
        return None


def report_failure(module: fx.GraphModule, options: Options, why: Reason) -> None:
    """Of a graph of which nothing is known."""
    session = sessions.of(inductor.caller(), inductor.place().title, options)
    facts = GraphFacts(break_reason=inductor.break_reason(module), failures=(why,))
    session.add(inductor.compile_attempt(), (), facts, 0.0)


def applied(
    found: Analysis, module: fx.GraphModule, listed: tuple[str, str] | None
) -> tuple[Analysis, dict[str, str]]:
    """What is in the graph after the rewrite, and the texts of the graph for a dump.

    listed: title and prefix, where a dump is wanted.
    """
    if found.ops:
        inductor_ir.install(registry.known_fusions())
    if listed is None:
        return found.apply(), {}
    what = "listing the graph"
    with failure.noted() as notes:
        before = failure.instead(None, what, None, graph_listing.Before.of, module, *listed)
        found = found.apply()
        texts = dict[str, str]()
        if before is not None:
            texts = failure.instead(texts, what, None, before.texts, module, found.sites)
    return dataclasses.replace(found, failures=(*found.failures, *notes)), texts


def with_passes(plain: Inductor, found: Analysis, options: Options) -> Inductor:
    """The compiler of a graph with ops of ours."""
    if not found.ops:
        return plain
    identity = pipeline.identity(options)
    passes = {
        "pre_grad_custom_pass": inductor.Identity(identity),
        "joint_custom_post_pass": joint_graph.JointGraphPass(identity),
    }
    return dataclasses.replace(plain, passes=passes, around=Retries(options.strict).around)


def compiled(
    module: fx.GraphModule,
    options: Options,
    inputs: Sequence[Any],
    plain: Inductor,
    log: undo.Log,
    done: Rewritten,
) -> Callable[..., Any]:
    """What Inductor makes of the rewritten graph; where it fails, of the graph as it came."""
    what = "noting the state of the compile"
    state = failure.instead(None, what, None, compile_state.CompileState)
    try:
        with compile_state.dispatch_kept(), inductor_ir.written_launches() as launches:
            result = done.compiler.compile(module, inputs)
    except Exception as error:
        if failure.passes(error) or not done.found.changed:
            raise
        LOGGER.debug("the rewritten graph cannot be compiled", exc_info=error)
        said, cause = failure.said(error), error if options.strict != "off" else None
    else:
        if any(site.decision == "kernel" for site in done.found.sites):
            prepare(launches, options)
        return dropped_logits.returning(result, done.found.dropped)
    if state is not None:
        state.restore()
    log.restore()
    result = plain.compile(module, inputs)  # what this raises is no failure of ours
    if options.strict != "off":
        raise PassFailed(cause=said, strict=options.strict) from cause
    why = f"Inductor could not compile the graph with it: {said}"
    done.give_up(Reason(ReasonKind.INTERNAL_FAILURE, why, fix=failure.FIX))
    fields = {"what": "the rewritten graph", "instead": "the graph is compiled as it came"}
    warnings.warn(CompileFailed(cost="nothing in it is fused", cause=said, **fields), stacklevel=2)
    return result


def prepare(launches: Sequence[LaunchSite], options: Options) -> None:
    """Compile what is still missing for the launches as Inductor laid them out.

    What cannot be compiled runs its reference, and warns when it does.
    """
    problems = failure.tried("to compile what launches lack", None, site_kernels.prepare, launches)
    if isinstance(problems, Reason):
        if options.strict != "off":
            raise PassFailed(cause=problems.text, strict=options.strict)
        LOGGER.warning("kernels are compiled at their first launch: %s", problems)
    elif problems and options.strict == "no-fallback":
        lines = dict.fromkeys(f"  {site.place}: {reason}" for site, reason in problems)
        raise FallbackRefused(count=len(problems), remarks="\n".join(lines))
