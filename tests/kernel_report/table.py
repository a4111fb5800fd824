"""The facts as docs/kernels.md: a summary, the exceptions, one row per sample and architecture."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from tests.kernel_compile import ARCHITECTURES, Case
from tests.kernel_report import gates
from tests.kernel_report.exceptions import EXCEPTIONS, FEWEST_WARPS
from tests.kernel_report.facts import Facts
from tests.kernel_report.gates import Finding
from tile_backend.lowering.multiprocessor import LIMITS

ABOUT = """\
Written by `make kernel-report`; do not edit. A test compares it with the compiled code.

What the compiler made of every sample of every kernel, read from the code itself: nothing here was
run, and nothing here is a time. A sample is a call with shapes, dtypes and options; tiles and
compiler hints are what the kernel's plan chooses for it on that architecture."""
COLUMNS = """\
Threads and shared memory (in KiB) are per block, registers per thread. *Warps* are those that run
at once on one multiprocessor, of the most that it takes. *Spills* are instructions that load and
store spilled registers. *Products* are matrix instructions; *memory* is how tiles are moved, in
the compiler's words: TMA, or instructions of the threads. Numbers before a name count places in
the code, not executions."""
HEAD = "| kernel | sample | arch | threads | registers | KiB | warps | spills | products | memory |"
SUMMARY = """\
The fewest warps per multiprocessor and the most registers over the samples of a kernel, with its
matrix instructions and its spills, where there are any:"""

Measured = Mapping[Case, Facts]


def markdown(measured: Measured, versions: Mapping[str, str]) -> str:
    """The whole page. versions: of the tools, by name."""
    named = ", ".join(f"{name} {version}" for name, version in versions.items())
    found = gates.findings(measured)
    parts = [
        "# Compiled kernels",
        ABOUT,
        f"{named}; {len(measured)} compiled kernels.",
        "## Summary",
        SUMMARY,
        "\n".join(summary(measured)),
        "## Gates",
        "\n".join(gate_lines()),
        "\n".join(exception_lines(found)),
        "## Every sample",
        COLUMNS,
        "\n".join([HEAD, "|---|---|---|---:|---:|---:|---:|---:|---|---|", *rows(measured)]),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def rows(measured: Measured) -> Iterable[str]:
    for case, facts in measured.items():
        cells = (
            case.op,
            case.sample,
            case.arch,
            facts.threads,
            facts.registers,
            f"{facts.shared / 1024:.1f}",
            f"{facts.warps} of {LIMITS[case.arch].warps}",
            "/".join(map(str, facts.spills)) if any(facts.spills) else "0",
            counted(products(facts)),
            counted(memory(facts)),
        )
        yield f"| {' | '.join(map(str, cells))} |"


def products(facts: Facts) -> Mapping[str, int]:
    """Matrix instructions."""
    return {n: k for n, k in sorted(facts.opcodes.items()) if gates.ANY_PRODUCT.fullmatch(n)}


def memory(facts: Facts) -> Mapping[str, int]:
    """How tiles are moved."""
    return {
        name.removesuffix(" instruction"): n
        for name, n in facts.chosen.items()
        if "load" in name.lower() or "store" in name.lower()
    }


def counted(numbers: Mapping[str, int]) -> str:
    return ", ".join(f"{n} {name}" for name, n in numbers.items())


def summary(measured: Measured) -> Sequence[str]:
    """One row per kernel, one column per architecture."""
    lines = [
        f"| kernel | {' | '.join(ARCHITECTURES)} |",
        "|---" * (len(ARCHITECTURES) + 1) + "|",
    ]
    for op in dict.fromkeys(case.op for case in measured):
        cells = []
        for arch in ARCHITECTURES:
            of = [f for c, f in measured.items() if (c.op, c.arch) == (op, arch)]
            cells.append(in_short(of) if of else "")
        lines.append(f"| {op} | {' | '.join(cells)} |")
    return lines


def in_short(of: Sequence[Facts]) -> str:
    warps = min(facts.warps for facts in of)
    parts = [f"{warps} warps", f"{max(facts.registers for facts in of)} registers"]
    used = sorted({name for facts in of for name in products(facts)})
    parts += [" and ".join(used)] if used else []
    spilling = sum(any(facts.spills) for facts in of)
    parts += [f"{spilling} of {len(of)} spill"] if spilling else []
    return ", ".join(parts)


def gate_lines() -> Sequence[str]:
    wanted = ", ".join(f"`{name}` on {arch}" for arch, name in gates.PRODUCTS.items())
    return [
        f"- `spills`: none on {' and '.join(gates.NO_SPILLS)}.",
        f"- `products`: a kernel with matrix products does all of them with {wanted}.",
        f"- `warps`: a kernel without has at least {FEWEST_WARPS} warps per multiprocessor.",
    ]


def exception_lines(found: Sequence[Finding]) -> Sequence[str]:
    """The stated exceptions, with what they cover."""
    if not EXCEPTIONS:
        return ["There are no exceptions."]
    lines = [
        "| gate | kernel | architectures | the worst | why |",
        "|---|---|---|---|---|",
    ]
    for exempt in EXCEPTIONS:
        covered = [f for f in found if gates.excused(f, exempt)]
        worst = max(covered, key=lambda f: f.measured, default=None)
        text = worst.text if worst else "nothing"
        archs = "all" if exempt.archs == ARCHITECTURES else ", ".join(exempt.archs)
        lines.append(f"| {exempt.gate} | `{exempt.kernel}` | {archs} | {text} | {exempt.reason} |")
    return lines
