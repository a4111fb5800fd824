"""`python -m tests.lint`: print what breaks a habit, and fail if anything does."""

from __future__ import annotations

import sys

from tests.lint.every_check import ALL_CHECKS
from tests.lint.source_tree import checkout


def main() -> int:
    """The number of findings, at most 1, as the exit status."""
    tree = checkout()
    findings = [finding for check in ALL_CHECKS for finding in check(tree)]
    for finding in sorted(findings, key=lambda each: (each.path, each.line)):
        print(finding)
    print(f"{len(ALL_CHECKS)} habits, {len(tree.python)} files, {len(findings)} findings")
    return min(len(findings), 1)


if __name__ == "__main__":
    sys.exit(main())
