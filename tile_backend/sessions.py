"""Which graphs belong together: a session per compiled callable, with the report of all its graphs.

The newest session is what `last_report()` returns. A report is complete, and expectations can be
judged, once a graph ended because its function did; a callable with graph breaks is judged when
somebody asks for its report, or at exit.
"""

from __future__ import annotations

import atexit
import dataclasses
import weakref

from tile_backend import expectations, graph_diff, remarks
from tile_backend.inductor import trace_artifact
from tile_backend.lowering.site import Site
from tile_backend.options import Options
from tile_backend.report import GraphFacts, Report


@dataclasses.dataclass
class Attempt:
    """The graphs of one attempt at a compile: mostly one."""

    number: int
    graphs: list[tuple[tuple[Site, ...], GraphFacts]] = dataclasses.field(default_factory=list)


class Session:
    """report: of all graphs so far. pending: its expectations are not judged yet."""

    def __init__(self, title: str, options: Options) -> None:
        self.title = title
        self.options = options
        self.pending = False
        self.seconds = 0.0
        self.graphs: dict[object, Attempt] = {}

    @property
    def report(self) -> Report:
        report = Report(self.title).timed(self.seconds)
        for attempt in self.graphs.values():
            for sites, facts in attempt.graphs:
                report = report.extended(sites, facts)
        return report

    def add(
        self,
        compiled: tuple[object, int] | None,
        sites: tuple[Site, ...],
        facts: GraphFacts,
        seconds: float,
    ) -> None:
        """One more graph: log it, save the dump, judge expectations where the totals are known.

        compiled: see `inductor.compile_attempt`. Dynamo may start a compile again (a symbolic float
        that we specialised): the next attempt replaces what the one before left. Graphs of one
        attempt add up. Raises ExpectationNotMet, FallbackRefused or ReportFolderError as the
        options say.
        """
        global _newest
        _newest = self
        self.seconds += seconds
        compile_id, number = compiled or (object(), 0)
        known = self.graphs.get(compile_id)
        if known is None or known.number != number:
            known = self.graphs[compile_id] = Attempt(number)
        known.graphs.append((sites, facts))
        alone = Report(self.title).extended(sites, facts)
        remarks.emit(alone, self.options, fused_elsewhere=bool(self.report.fused))
        trace_artifact("tilegym_report", "json", lambda: alone.to_json())
        trace_artifact("tilegym_diff", "string", lambda: graph_diff.text(alone))
        self.options.warn_unmatched_globs(site.module for site in self.report.sites)
        if self.options.report_dir:
            self.report.save(self.options.report_dir)
        self.pending = bool(facts.break_reason) or self.pending
        if not self.pending:
            expectations.enforce(self.report, self.options)

    def judge(self) -> None:
        if self.pending:
            self.pending = False
            expectations.enforce(self.report, self.options)


_newest: Session | None = None


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
