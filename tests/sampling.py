"""`@pytest.mark.sampled(n)`: `make test` runs about every n-th case, `make test-full` all of them.

The rest is marked `full`. Which cases those are is a matter of their names alone, so that all
workers, and the next run, choose the same. Every value of every parameter keeps one case at least:
no op, no form and no dtype leaves `make test`. `each` says what keeps one instead: a function of
the arguments of a case that returns what has to be there. A case that is asked for by its name is
the only one of its test, and so runs.
"""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

import pytest

MARK = "sampled"
ALL_CASES = f"not full or {MARK}"
"""What `-m` says to select what would be selected if no test were sampled."""


def chosen(cases: Mapping[str, Iterable[Hashable]], every: int) -> set[str]:
    """The names that are kept. cases: what each one covers, by name."""
    order = sorted(cases, key=lambda name: (zlib.crc32(name.encode()), name))
    kept = {name for name in order if zlib.crc32(name.encode()) % every == 0}
    covered = {part for name in kept for part in cases[name]}
    for name in order:
        parts = set(cases[name])
        if not parts <= covered:
            kept.add(name)
            covered |= parts
    return kept or set(order[:1])


def parts(item: Any, each: Callable[..., Iterable[Hashable]] | None) -> list[Hashable]:
    """What a case covers: by default its arguments, each by its parameter and by what it is."""
    given: Mapping[str, Any] = item.callspec.params
    if each is not None:
        return list(each(**given))
    return [(name, known(value)) for name, value in given.items()]


def known(value: Any) -> Hashable:
    """The value, or which object it is: the same in all cases that have it."""
    try:
        hash(value)
    except TypeError:
        return id(value)
    return value  # type: ignore[no-any-return]


def mark(items: Sequence[pytest.Item]) -> None:
    """Marks as `full` what is left out of sampled tests."""
    tests = defaultdict[str, list[pytest.Item]](list)
    for item in items:
        if item.get_closest_marker(MARK) and not item.get_closest_marker("full"):
            tests[item.nodeid.partition("[")[0]].append(item)
    for several in tests.values():
        found = several[0].get_closest_marker(MARK)
        assert found is not None
        (every,), each = found.args, found.kwargs.get("each")
        kept = chosen({item.nodeid: parts(item, each) for item in several}, every)
        for item in several:
            if item.nodeid not in kept:
                item.add_marker(pytest.mark.full)
