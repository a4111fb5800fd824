"""`python -m tests.mutants [--only GLOB] [--jobs N] [--no-save]`: exits with 1 for a survivor."""

from __future__ import annotations

import argparse
import fnmatch
import sys

from tests.mutants import outcome, run
from tests.mutants.catalogue import MUTANTS
from tests.mutants.mutant import Mutant
from tests.mutants.trial import Result

LOG = 4000
"""Characters of a log that are shown."""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("--only", metavar="GLOB", action="append", help="by name; several add up")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="mutants at a time")
    parser.add_argument("--any-way", action="store_true", help="also where tests fail without")
    parser.add_argument("--no-save", action="store_true", help="leave result and page as they are")
    return parser.parse_args()


def said(mutant: Mutant, result: Result) -> None:
    """One line for one mutant."""
    mark = "  " if outcome.is_right(mutant, result.outcome) else "! "
    by = f" by {result.by[0]}" if result.by else ""
    print(f"{mark}{mutant.name}: {result.outcome}{by} {result.text}".rstrip(), flush=True)


def main() -> int:
    """The exit status: 0 where all are killed or equal, 1 for others, 2 where none can be run."""
    given = arguments()
    chosen = [
        m
        for m in MUTANTS
        if given.only is None or any(fnmatch.fnmatch(m.name, glob) for glob in given.only)
    ]
    if not chosen:
        print("no mutant has such a name", file=sys.stderr)
        return 2
    run.prepare()
    with run.scratch() as folder:
        failing = run.without(chosen, folder, given.jobs)
        for test, log in failing.items():
            print(f"fails without a mutant: {test}\n{log[-LOG:]}", file=sys.stderr)
        if failing and not given.any_way:
            return 2
        results = run.run(chosen, folder, given.jobs, said)
    if not given.no_save:
        outcome.save(chosen, results)
    wrong = [m.name for m in chosen if not outcome.is_right(m, results[m.name].outcome)]
    print(f"{len(chosen)} mutants, {len(wrong)} that no test killed")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
