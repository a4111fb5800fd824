"""docs/mutants.md, written from the outcome."""

from __future__ import annotations

import collections
from collections.abc import Iterator, Sequence
from typing import Any

from tests.mutants.catalogue import AREAS
from tests.mutants.mutant import ROOT

PAGE = ROOT / "docs" / "mutants.md"

HEAD = """\
# Mutants

Written by `make mutants`. A mutant is a small change of the code that must not be wrong: a check
turned off, a side condition dropped, a number off by one. The tests must notice each. A row names
the first test that failed, or says why nothing changes that a test could notice. How the list is
made: [CONTRIBUTING.md](../CONTRIBUTING.md).

"""


def written(rows: Sequence[dict[str, Any]]) -> str:
    """The page."""
    counts = collections.Counter(row["outcome"] for row in rows)
    equal = sum(bool(row["equal"]) for row in rows)
    text = f"{len(rows)} mutants: {counts['killed']} killed, {equal} that change nothing.\n"
    return HEAD + text + "".join(section(name, rows) for name in AREAS)


def section(name: str, rows: Sequence[dict[str, Any]]) -> str:
    """One area."""
    return "\n".join(
        [
            f"\n## {AREAS[name].title}\n",
            "| mutant | file | was | is | killed by |",
            "|---|---|---|---|---|",
            *(line(row) for row in rows if row["area"] == name),
            "",
        ]
    )


def line(row: dict[str, Any]) -> str:
    file = row["file"].rpartition("/")[2] if row["file"].startswith("lowering") else row["file"]
    cells = [row["name"].replace("-", " "), f"`{file}`", *differing(row["old"], row["new"])]
    return "| " + " | ".join([*cells, verdict(row)]) + " |"


def verdict(row: dict[str, Any]) -> str:
    if row["outcome"] == "killed" and not row["equal"]:
        file, _, test = row["by"].partition("::")
        return f"`{file.rpartition('/')[2].removesuffix('.py')}::{test.partition('[')[0]}`"
    said = f"equal: {row['equal']}" if row["equal"] else "no test"
    return said if row["outcome"] == "survived" else f"**{row['outcome']}**"


def differing(old: str, new: str) -> Iterator[str]:
    """Both as code in a cell, without the lines that they share at their ends."""
    lines = old.splitlines(), new.splitlines()
    while all(len(some) > 1 for some in lines) and lines[0][0] == lines[1][0]:
        lines = lines[0][1:], lines[1][1:]
    while all(len(some) > 1 for some in lines) and lines[0][-1] == lines[1][-1]:
        lines = lines[0][:-1], lines[1][:-1]
    for some in lines:
        text = " ".join(" ".join(part.split()) for part in some).strip().replace("|", "\\|")
        yield f"`{text}`" if text else "nothing"
