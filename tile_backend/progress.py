"""Progress bars of long work, on standard error; none where that is no terminal.

A bar appears only after `PATIENCE` seconds, so that what is quick stays quiet.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")
Tracked = Callable[[Iterable[Item], str, int], Iterator[Item]]
"""`track`, for code that must not import this package's front: (items, what, how many)."""
PATIENCE = 1.0


def track(items: Iterable[Item], what: str, total: int | None = None) -> Iterator[Item]:
    """The items, with a bar that counts them. what: a word or two, "certificates".

    total: how many there are; `len(items)` unless given, and unknown where that fails.
    """
    if not sys.stderr.isatty():
        yield from items
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    if total is None and hasattr(items, "__len__"):
        total = len(items)
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=False) as bar:
        task = bar.add_task(what, total=total, visible=False)
        started = time.monotonic()
        for item in items:
            yield item
            bar.update(task, advance=1, visible=time.monotonic() - started > PATIENCE)
