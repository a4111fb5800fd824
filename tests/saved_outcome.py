"""A pytest plugin that leaves the outcome of a run in `bench/results/<TEST_RESULT>.json`.

`make test-full` and `make test-with` use it. One row per test file, with the commit, machine and
versions of the run (see bench.result_file), and its command (TEST_COMMAND).
"""

from __future__ import annotations

import collections
import os

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
    command = os.environ["TEST_COMMAND"]
    given = list(terminalreporter.config.invocation_params.args)
    facts = {"command": command, "arguments": given, "totals": totals}
    path = result_file.save(os.environ["TEST_RESULT"], rows, **facts)
    terminalreporter.write_line(f"saved {path.relative_to(result_file.ROOT)}")
