"""How many graphs a compile became, and why it broke: what torch's own counters say.

Checked against torch 2.11, 2.13 and 2.15.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator

from torch._dynamo.utils import counters


@dataclasses.dataclass
class Graphs:
    """Of what was compiled inside `graphs()`; filled at its end. breaks: a reason for each."""

    count: int = 0
    breaks: list[str] = dataclasses.field(default_factory=list)


@contextlib.contextmanager
def graphs() -> Iterator[Graphs]:
    """Counts what is compiled inside."""
    found = Graphs()
    count, broken = counters["stats"]["unique_graphs"], dict(counters["graph_break"])
    try:
        yield found
    finally:
        found.count = counters["stats"]["unique_graphs"] - count
        for reason, number in counters["graph_break"].items():
            text = str(reason).splitlines()[0]
            found.breaks += [text] * (number - broken.get(reason, 0))
