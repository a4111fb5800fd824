"""The rows as Markdown: totals, one line for each type, every missed call by name."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tests.coverage.call import Category

Row = Mapping[str, Any]
ABOUT = """\
Written by `make coverage`; do not edit. Every causal-LM type that Transformers knows is built tiny
with random weights in float32, the calls of its eager run are counted by hooks, and the sites of
the compiled model are held against them. Every site is rewritten (`tilegym.kernels = always`), and
the logits are compared within the error budget."""
TITLES = {
    Category.NORM: "norms",
    Category.GATED_MLP: "gated MLPs",
    Category.ROTARY: "rotary (tensors)",
    Category.SDPA: "SDPA",
    Category.EAGER_ATTENTION: "attention by hand",
}


def missed_units(row: Row, category: Category) -> int:
    return sum(m["units"] for m in row["missed"] if m["category"] == category.value)


def called(row: Row, category: Category) -> int:
    return int(row["calls"].get(category.value, 0))


def share(rows: Sequence[Row], category: Category) -> tuple[int, int]:
    """(covered, called) over all rows."""
    total = sum(called(row, category) for row in rows)
    return total - sum(missed_units(row, category) for row in rows), total


def totals(rows: Sequence[Row]) -> list[str]:
    lines = ["| calls | found | of | share |", "|---|---:|---:|---:|"]
    for category, title in TITLES.items():
        found, total = share(rows, category)
        percent = f"{100 * found / total:.1f} %" if total else ""
        lines.append(f"| {title} | {found} | {total} | {percent} |")
    return lines


def cell(row: Row, category: Category) -> str:
    total = called(row, category)
    return f"{total - missed_units(row, category)}/{total}" if total else ""


def outcome(row: Row) -> str:
    if row.get("error"):
        return f"failed: {row['error']}"
    return row.get("difference") or "equal"


def by_type(rows: Iterable[Row]) -> list[str]:
    heads = " | ".join(TITLES.values())
    lines = [f"| type | {heads} | graphs | output |", "|---" * (len(TITLES) + 3) + "|"]
    for row in rows:
        cells = " | ".join(cell(row, category) for category in TITLES)
        lines.append(f"| {row['type']} | {cells} | {row.get('graphs', '')} | {outcome(row)} |")
    return lines


def missed(rows: Iterable[Row]) -> list[str]:
    """One line for each distinct (category, class, source, reason), with the types it occurs in."""
    groups: dict[tuple[str, ...], collections.Counter[str]] = collections.defaultdict(
        collections.Counter
    )
    for row in rows:
        for call in row["missed"]:
            key = (call["category"], call["owner"], call["source"], call["reason"])
            groups[key][row["type"]] += call["units"]
    lines = [
        "| calls | category | class | source | types | what the report says |",
        "|---" * 6 + "|",
    ]
    for key, types in sorted(groups.items(), key=lambda item: (item[0][0], -item[1].total())):
        category, owner, source, reason = (text.replace("|", "\\|") for text in key)
        names = ", ".join(types)
        lines.append(f"| {types.total()} | {category} | {owner} | {source} | {names} | {reason} |")
    return lines


def markdown(rows: Sequence[Row], versions: Mapping[str, str], took: str) -> str:
    built = [row for row in rows if row["status"] == "built"]
    others = [row for row in rows if row["status"] != "built"]
    tested = ", ".join(f"{name} {version}" for name, version in versions.items())
    differing = [row["type"] for row in built if row.get("difference") or row.get("error")]
    parts = [
        "# Coverage of causal-LM architectures",
        ABOUT,
        f"{tested}; {len(built)} of {len(rows)} types built; {took}.",
        "\n".join(totals(built)),
        "Outputs that differ, or runs that failed: " + (", ".join(differing) or "none") + ".",
        "## Every type",
        "\n".join(by_type(built)),
        "## Every call that was missed",
        "\n".join(missed(built)),
    ]
    if others:
        reasons = [f"| {row['type']} | {row['error']} |" for row in others]
        parts += [
            "## Types that could not be built or did not finish",
            "\n".join(["| type | why |", "|---|---|", *reasons]),
        ]
    return "\n\n".join(parts) + "\n"
