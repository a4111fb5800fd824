"""`python -m tests.kernel_report`: writes docs/kernels.md; exits with 1 where a gate fails."""

from __future__ import annotations

import sys

from tests.kernel_report import gates
from tests.kernel_report.report import PAGE, measured, page


def main() -> int:
    """The exit status."""
    facts = measured()
    PAGE.write_text(page(facts), encoding="utf-8")
    found = gates.findings(facts)
    failing = gates.unexcused(found)
    for finding in failing:
        print(finding)
    for exempt in gates.stale(found):
        print(f"an exception that does not fit what is measured: {exempt}")
    print(f"{PAGE.name}: {len(facts)} compiled kernels, {len(failing)} do not pass a gate")
    return int(bool(failing or gates.stale(found)))


if __name__ == "__main__":
    sys.exit(main())
