"""A pytest plugin that leaves the outcome of `make test-full` in `bench/results/test_full.json`.

One row per test file, with the commit, machine and versions of the run (see bench.result_file).
"""

from __future__ import annotations

import collections

import pytest

from bench import result_file

OUTCOMES = ("passed", "failed", "error", "skipped")


@pytest.hookimpl
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Called once, in the process that collects what the workers report."""
    counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for outcome in OUTCOMES:
        for report in terminalreporter.stats.get(outcome, ()):
            counts[report.nodeid.partition("::")[0]][outcome] += 1
    rows = [
        {"file": file, **{outcome: counts[file][outcome] for outcome in OUTCOMES}}
        for file in sorted(counts)
    ]
    totals = {outcome: sum(row[outcome] for row in rows) for outcome in OUTCOMES}
    path = result_file.save("test_full", rows, command="make test-full", totals=totals)
    terminalreporter.write_line(f"saved {path.relative_to(result_file.ROOT)}")
