"""docs/fuzz.md, written from the outcome of `make fuzz`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tests.lint.source_tree import ROOT

PAGE = ROOT / "docs" / "fuzz.md"
KERNELS = ("always", "auto", "interpret")
"""The options under which a site is rewritten."""

HEAD = """\
# Drawn programs

Written by `make fuzz`. Whole small programs are drawn: several sites that share operands, repeats
and masks; writes, views, copies and aliases of inputs before, between and after them; dead readers,
returned interiors, bodies of checkpoint and cond; sizes 0 and 1, dynamic sizes; NaN, infinity and
huge numbers; training. Each is compiled in one of several ways and held against eager and float64:
results, gradients, inputs afterwards, dtypes, strides and shared memory, within the error budget of
[DESIGN.md](../DESIGN.md#numerics). What torch does not run by itself is refused.

"""
REFUSED = "refused"
LIMITS = "right but for limits"


def written(outcome: Mapping[str, Any]) -> str:
    """The page of what `fuzz.json` holds."""
    tally = outcome["tally"]
    return HEAD + "\n".join(
        [
            *summary(outcome["command"], tally),
            *table("How they were compiled", ("way", "programs"), tally["ways"].items()),
            *sites(outcome["rows"]),
            *table("Certificates", ("verdict", "sites"), tally["certificates"].items()),
            *table(
                "Statements of the programs that were right",
                ("what they do", "programs"),
                tally["statements"].items(),
            ),
            *failures(tally["failures"]),
            "",
        ]
    )


def summary(command: str, tally: Mapping[str, Any]) -> Iterator[str]:
    verdicts = tally["verdicts"]
    wrong = {k: n for k, n in verdicts.items() if not k.startswith("right") and k != REFUSED}
    said = ", ".join(f"{count} {kind}" for kind, count in sorted(wrong.items())) or "none is wrong"
    commits = ", ".join(f"{count} at commit {name}" for name, count in tally["commits"].items())
    yield f"{tally['programs']} programs (`{command}`; {commits}):"
    yield f"{verdicts.get('right', 0)} right, {said};"
    yield (
        f"{verdicts.get(LIMITS, 0)} right but for a difference that"
        " [limits.md](limits.md#what-is-still-different-from-eager)"
    )
    yield f"names; {verdicts.get(REFUSED, 0)} refused."


def sites(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Rewritten sites by option, and the commonest reasons where a site was declined."""

    def cells(row: Mapping[str, Any]) -> tuple[Any, ...]:
        rewritten, declined = row["rewritten"], row["declined"]
        common = sorted(declined.items(), key=lambda item: -item[1])[:3]
        words = ", ".join(f"{kind} {count}" for kind, count in common)
        return row["fusion"], *(rewritten.get(o, 0) for o in KERNELS), sum(declined.values()), words

    head = ("fusion", *KERNELS, "declined", "most often")
    yield from table("Sites that were rewritten, and declined", head, map(cells, rows))


def failures(found: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    rows = ((f["number"], f["way"], f["kind"], f["text"].splitlines()[0]) for f in found)
    if found:
        yield from table("What went wrong", ("program", "way", "kind", "text"), rows)


def table(title: str, head: Sequence[str], rows: Any) -> Iterator[str]:
    yield f"\n## {title}\n"
    yield "| " + " | ".join(head) + " |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield "| " + " | ".join(map(str, row)) + " |"
