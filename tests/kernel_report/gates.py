"""What the compiled kernels have to be, and the stated exceptions.

A gate measures one number of a kernel and says which side of a bound is wrong. An exception
names what it excuses, the number that was measured and the reason; it does not excuse a worse
number, and one that excuses nothing any more is itself a finding.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from fnmatch import fnmatchcase

from tests.kernel_compile import Case
from tests.kernel_report.exceptions import EXCEPTIONS, FEWEST_WARPS, Exempt
from tests.kernel_report.facts import Facts

NO_SPILLS = ("sm_90", "sm_100")
PRODUCTS = {
    "sm_80": "HMMA",
    "sm_89": "HMMA",
    "sm_90": "HGMMA",
    "sm_100": "UTC[A-Z]*MMA",
    "sm_120": "HMMA",
}
"""The instruction of an architecture's own tensor cores, as a pattern of its opcode."""
ANY_PRODUCT = re.compile(r"[A-Z]*MMA")


@dataclasses.dataclass(frozen=True)
class Finding:
    """A kernel that does not pass. measured: the number that the gate bounds."""

    gate: str
    case: Case
    measured: int
    text: str

    def __str__(self) -> str:
        return f"{self.case}: {self.text} ({self.gate})"


def spills(case: Case, facts: Facts) -> Iterator[Finding]:
    """No loads and stores of spilled registers where kernels are meant to be fast."""
    if case.arch in NO_SPILLS and sum(facts.spills):
        loads, stores = facts.spills
        yield Finding("spills", case, loads + stores, f"{loads} spill loads, {stores} stores")


def products(case: Case, facts: Facts) -> Iterator[Finding]:
    """A kernel with matrix products does all of them on its architecture's tensor cores."""
    if not facts.matrix:
        return
    own = re.compile(PRODUCTS[case.arch])
    found = {name: n for name, n in facts.opcodes.items() if ANY_PRODUCT.fullmatch(name)}
    foreign = {name: n for name, n in found.items() if not own.fullmatch(name)}
    plain = {c: n for c, n in facts.chosen.items() if "FMA" in c}
    if plain or not found:
        yield Finding("products", case, sum(plain.values()), f"no tensor cores: {plain}")
    elif foreign:
        text = ", ".join(f"{n} {name}" for name, n in sorted(foreign.items()))
        wanted = PRODUCTS[case.arch]
        yield Finding("products", case, sum(foreign.values()), f"{text} instead of {wanted}")


def warps(case: Case, facts: Facts) -> Iterator[Finding]:
    """A kernel that only streams has enough warps to hide the latency of memory."""
    if not facts.matrix and facts.warps < FEWEST_WARPS:
        text = f"{facts.warps} warps per multiprocessor, fewer than {FEWEST_WARPS}"
        yield Finding("warps", case, FEWEST_WARPS - facts.warps, text)


GATES: tuple[Callable[[Case, Facts], Iterator[Finding]], ...] = (spills, products, warps)


def findings(measured: Mapping[Case, Facts]) -> list[Finding]:
    """Everything that does not pass, excused or not."""
    return [f for case, facts in measured.items() for gate in GATES for f in gate(case, facts)]


def excused(finding: Finding, exempt: Exempt) -> bool:
    """Whether the exception is about that gate and kernel, and the number no worse."""
    case = finding.case
    return (
        finding.gate == exempt.gate
        and fnmatchcase(f"{case.op}-{case.sample}", exempt.kernel)
        and case.arch in exempt.archs
        and finding.measured <= exempt.measured
    )


def unexcused(
    found: Collection[Finding], exceptions: Collection[Exempt] = EXCEPTIONS
) -> list[Finding]:
    """Findings that no exception covers."""
    return [f for f in found if not any(excused(f, e) for e in exceptions)]


def stale(found: Collection[Finding], exceptions: Collection[Exempt] = EXCEPTIONS) -> list[Exempt]:
    """Exceptions whose number is not, or no longer, the worst of what they cover."""
    return [
        e
        for e in exceptions
        if max((f.measured for f in found if excused(f, e)), default=None) != e.measured
    ]
