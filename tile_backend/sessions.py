"""Which graphs belong together: a session per compiled callable, with the report of all its graphs.

The newest session is what `last_report()` returns. A report is complete, and expectations can be
judged, once a graph ended because its function did; a callable with graph breaks is judged when
somebody asks for its report, or at exit. A report that cannot be written, or made, is one warning
for each callable, and an error only under a strict mode.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import functools
import itertools
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from tile_backend import expectations, graph_diff, remarks
from tile_backend.debug_folder import debug_folder
from tile_backend.errors import (
    DumpNotCompleted,
    PassFailed,
    ReportFolderError,
    ReportIncomplete,
    ReportNotSaved,
    TileBackendWarning,
)
from tile_backend.file_names import safe
from tile_backend.inductor import trace_artifact
from tile_backend.lowering import failure
from tile_backend.lowering.reason import Reason
from tile_backend.lowering.site import Decision, Site
from tile_backend.options import Options
from tile_backend.report import GraphFacts, Report


@dataclasses.dataclass
class Graph:
    """What is known of one graph. texts: see `Report.texts`; they grow as code is generated."""

    sites: tuple[Site, ...]
    facts: GraphFacts
    texts: dict[str, str]

    def numbered(self, index: int) -> tuple[Site, ...]:
        """Its sites as those of the graph of that number in a report."""
        if any(site.graph != index for site in self.sites):
            self.sites = tuple(dataclasses.replace(site, graph=index) for site in self.sites)
        return self.sites


@dataclasses.dataclass
class Attempt:
    """The graphs of one attempt at a compile: mostly one."""

    number: int
    graphs: list[Graph] = dataclasses.field(default_factory=list)


class Session:
    """report: of all graphs so far. pending: its expectations are not judged yet.

    told: that something could not be saved.
    """

    def __init__(self, title: str, options: Options) -> None:
        self.title = title
        self.options = options
        self.pending = False
        self.told = False
        self.seconds = 0.0
        self.graphs: dict[object, Attempt] = {}
        self.number = next(_numbers)
        self.resets = _resets

    @property
    def report(self) -> Report:
        graphs = [graph for attempt in self.graphs.values() for graph in attempt.graphs]
        return Report(
            self.title,
            tuple(site for i, graph in enumerate(graphs) for site in graph.numbered(i)),
            tuple(graph.facts for graph in graphs),
            seconds=self.seconds,
            texts=tuple(dict(graph.texts) for graph in graphs),
        )

    @property
    def folders(self) -> tuple[Path, ...]:
        """Where the dump goes: the user's folder, and torch's own for debugging."""
        return dump_folders(self.options, f"{self.number}_{self.title}")

    def add(
        self,
        compiled: tuple[object, int] | None,
        sites: tuple[Site, ...],
        facts: GraphFacts,
        seconds: float,
        texts: Mapping[str, str] | None = None,
    ) -> Graph:
        """One more graph: log it, save the dump, judge expectations where the totals are known.

        texts: see `Report.texts`.
        compiled: see `inductor.compile_attempt`. Dynamo may start a compile again (a symbolic float
        that we specialised): the next attempt replaces what the one before left. Graphs of one
        attempt add up. Raises ExpectationNotMet, FallbackRefused or ReportFolderError as the
        options say.
        """
        global _newest
        _newest = self
        if self.resets != _resets:
            self.resets, self.pending, self.seconds = _resets, False, 0.0
            self.graphs.clear()
        self.seconds += seconds
        compile_id, number = compiled or (object(), 0)
        known = self.graphs.get(compile_id)
        if known is None or known.number != number:
            known = self.graphs[compile_id] = Attempt(number)
        graph = Graph(sites, facts, dict(texts or {}))
        known.graphs.append(graph)
        self.tell(Report(self.title).extended(sites, facts))
        self.pending = bool(facts.break_reason) or self.pending
        if not self.pending:
            judge = functools.partial(expectations.enforce, self.report, self.options)
            self.try_to("judge expectations", judge)
        return graph

    def tell(self, alone: Report) -> None:
        """Whoever listens. alone: the report of the newest graph. A failure costs what it is in."""
        fused, modules = bool(self.report.fused), [site.module for site in self.report.sites]
        self.try_to("log remarks", lambda: remarks.emit(alone, self.options, fused))
        diff = functools.partial(graph_diff.text, alone)
        self.try_to(
            "leave a trace", lambda: trace_artifact("tilegym_report", "json", alone.to_json)
        )
        self.try_to("leave a trace", lambda: trace_artifact("tilegym_diff", "string", diff))
        self.try_to("compare globs", lambda: self.options.warn_unmatched_globs(modules))
        self.save()

    def try_to(self, what: str, step: Callable[[], object]) -> None:
        """What fails is said, and raised under a strict mode."""
        failed = failure.tried(f"to {what}", None, step)
        if not isinstance(failed, Reason):
            return
        if self.options.strict != "off":
            raise PassFailed(cause=failed.text, strict=self.options.strict)
        if not self.told:
            self.told = True
            warnings.warn(ReportIncomplete(cause=failed.text), stacklevel=2)

    def given_up(self, graph: Graph, why: Reason) -> None:
        """Nothing of ours is in the graph after all."""
        graph.sites = tuple(left(site, why) for site in graph.sites)
        graph.texts = {}
        self.save()

    def save(self, warning: type[TileBackendWarning] = ReportNotSaved) -> None:
        """Write the dump where one is wanted. Raises ReportFolderError under a strict mode."""
        for folder in self.folders:
            with self.worth_no_compile(warning):
                self.report.save(folder)

    def generated(self, graph: Graph, kind: str, code: str) -> None:
        """Inductor has made, or loaded, the code of a graph: complete the dump.

        The backward is compiled when it first runs. Raises as `save`.
        """
        graph.texts[kind] = code
        self.save(DumpNotCompleted)

    @contextlib.contextmanager
    def worth_no_compile(self, warning: type[TileBackendWarning]) -> Iterator[None]:
        """What fails inside is one warning, or an error of ours under a strict mode."""
        try:
            yield
        except Exception as error:  # whatever it is, the program is compiled and right
            if failure.passes(error) and not isinstance(error, ReportFolderError):
                raise
            strict = self.options.strict
            ours = isinstance(error, ReportFolderError)
            cause = str(error) if ours else failure.said(error)
            if strict != "off":
                if ours:
                    raise
                raise PassFailed(cause=cause, strict=strict) from error
            if not self.told:
                self.told = True
                warnings.warn(warning(title=self.title, cause=cause), stacklevel=4)

    def judge(self) -> None:
        if self.pending:
            self.pending = False
            expectations.enforce(self.report, self.options)


def left(site: Site, why: Reason) -> Site:
    """With its original code, if something was put in its place."""
    if site.decision is None or not (site.decision.op_in_graph or site.decision.respelled):
        return site
    decision = Decision("reference", why.text, op_in_graph=False, basis="limit")
    return dataclasses.replace(site, decision=decision, fallback=why, kernels=(), certificate=None)


def dump_folders(options: Options, name: str) -> tuple[Path, ...]:
    """name: of the callable's own folder, where dumps of several lie beside each other."""
    found = [Path(options.report_dir)] if options.report_dir else []
    debug = debug_folder()
    if debug is not None:
        found.append(debug / safe(name))
    return tuple(found)


_numbers = itertools.count(1)
_newest: Session | None = None
_resets = 0
"""How often compiled code was thrown away."""


def reset() -> None:
    """Compiled code was thrown away. A report stays until its callable is compiled again."""
    global _resets
    _resets += 1


def of(caller: object | None, title: str, options: Options) -> Session:
    """The session of the compiled callable that calls the backend; a new one if that is unknown."""
    if caller is None:
        return Session(title, options)
    session = _sessions.get(id(caller))
    if session is None:
        session = _sessions[id(caller)] = Session(title, options)
        weakref.finalize(caller, _sessions.pop, id(caller), None)
    session.options = options
    return session


_sessions: dict[int, Session] = {}
"""By identity, not equality: torch compares its wrappers by their options."""


def newest() -> Report | None:
    """The report of the newest compiled callable, or None before the first compile."""
    if _newest is None:
        return None
    _newest.judge()
    return _newest.report


@atexit.register
def _judge_at_exit() -> None:
    if _newest is not None:
        _newest.judge()
