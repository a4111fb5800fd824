"""The tests marked `gpu`, by pytest."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from pathlib import Path

from tests.gpu_kit.outcome import Outcome

TESTS = Path(__file__).resolve().parents[1]
MARK = re.compile(r"^(pytestmark = |@)pytest\.mark\.gpu$", re.MULTILINE)
LONGEST = 2000


def files() -> list[str]:
    """The test files that have such tests: others may import what a GPU machine lacks."""
    return sorted(str(p) for p in TESTS.glob("test_*.py") if MARK.search(p.read_text()))


def run() -> Outcome:
    """One row per test."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "gpu"]
        result = subprocess.run(
            [*command, f"--junitxml={report}", *files()],
            cwd=TESTS.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        print(result.stdout)
        if not report.is_file():
            return Outcome("pytest did not run", [result.stdout[-LONGEST:]])
        return judged(report)


def judged(report: Path) -> Outcome:
    """What pytest's report says."""
    rows, problems = [], []
    for case in ET.parse(report).iter("testcase"):
        name = f"{case.get('classname')}::{case.get('name')}"
        bad = [found for kind in ("failure", "error") for found in case.findall(kind)]
        skipped = case.find("skipped")
        outcome = "failed" if bad else "passed" if skipped is None else "skipped"
        rows.append({"test": name, "outcome": outcome, "seconds": float(case.get("time", 0))})
        problems += [f"{name}: {found.get('message', '')[:LONGEST]}" for found in bad]
        if skipped is not None:
            problems.append(f"{name}: skipped: {skipped.get('message')}")
    passed = sum(row["outcome"] == "passed" for row in rows)
    if not rows:
        problems.append("pytest found no test marked gpu")
    return Outcome(f"{passed} of {len(rows)} tests passed", problems, rows)
