"""Measurements as the text of a file, and back; one file per architecture, "sm_90.json".

JSON that a person can read and compare: sorted, one time per line. `read` never raises for what a
file holds: entries that are not understood, or are not what their SHA-256 was made of, are left out
and said to be, and of a text that is no JSON the entries that are whole are found. Who mends an
entry by hand leaves its SHA-256 out.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from tile_backend.lowering.tuning_entry import Circumstances, Entry, Spread

FORMAT = 1
SORTS = ("gate", "configuration")
SEAL = "sha256"


class Content(NamedTuple):
    """What a file says. damage: what is wrong with it, in words, or "".

    foreign: it is of another format, and none of it was read.
    """

    entries: tuple[Entry, ...]
    damage: str = ""
    foreign: bool = False


def text_of(arch: str, entries: Iterable[Entry]) -> str:
    """The text of a file: the same for the same entries in whatever order."""
    head = f'{{\n  "format": {FORMAT},\n  "arch": {json.dumps(arch)},\n  "entries": ['
    blocks = [block(entry) for entry in sorted(entries, key=order)]
    return head + ",".join(f"\n{b}" for b in blocks) + ("\n  ]\n}\n" if blocks else "]\n}\n")


def read(text: str, arch: str) -> Content:
    """The entries of a file of that architecture."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        entries, _ = understood(dicts_in(text))
        return Content(entries, f"it is no JSON ({error})")
    if not isinstance(found, dict) or not isinstance(found.get("entries"), list):
        return Content((), "it holds no list of entries", foreign=True)
    if found.get("format") != FORMAT:
        return Content((), f"its format is {found.get('format')!r}, not {FORMAT}", foreign=True)
    if found.get("arch") != arch:
        return Content((), f"it is of {found.get('arch')!r}, not {arch!r}", foreign=True)
    entries, bad = understood(found["entries"])
    damage = f"{bad} of its {len(found['entries'])} entries are not understood" if bad else ""
    return Content(entries, damage)


def key(entry: Entry) -> tuple[Any, ...]:
    """What only one entry of a file has: a new measurement replaces the old one."""
    ranges = tuple(sorted((name, *ends) for name, ends in entry.ranges.items()))
    return entry.sort, entry.kind, ranges, entry.circumstances.gpu


def order(entry: Entry) -> tuple[Any, ...]:
    """Where an entry stands in a file."""
    return key(entry)


def block(entry: Entry) -> str:
    """An entry as indented text."""
    fields: dict[str, Any] = {
        "sort": entry.sort,
        "kind": entry.kind,
        "ranges": {name: list(ends) for name, ends in sorted(entry.ranges.items())},
        "at": dict(sorted(entry.at.items())),
        "chosen": entry.chosen,
    }
    lines = [f'      "{name}": {json.dumps(value)},' for name, value in fields.items()]
    times = [
        f"        {json.dumps(way)}: {json.dumps(rounded(entry.times[way]))}"
        for way in sorted(entry.times, key=lambda way: entry.times[way].median)
    ]
    lines.append('      "times": {\n' + ",\n".join(times) + "\n      },")
    circumstances = dataclasses.asdict(entry.circumstances)
    lines.append(f'      "circumstances": {json.dumps(circumstances)}')
    digest = sealed(json.loads("{" + "".join(lines) + "}"))
    return "    {\n" + "\n".join(lines) + f',\n      "{SEAL}": "{digest}"\n    }}'


def sealed(value: Mapping[str, Any]) -> str:
    """A digest of all of an entry but itself, however the JSON was laid out."""
    rest = {name: part for name, part in value.items() if name != SEAL}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()[:32]


def rounded(spread: Spread) -> dict[str, float]:
    """Microseconds to a nanosecond, which is finer than a GPU's clock ticks."""
    times = {name: round(getattr(spread, name), 3) for name in ("median", "p10", "p90")}
    return {**times, "samples": spread.samples}


def understood(values: Iterable[Any]) -> tuple[tuple[Entry, ...], int]:
    """The entries, and how many values are none."""
    entries, bad = [], 0
    for value in values:
        try:
            entries.append(entry_of(value))
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
            bad += 1
    return tuple(entries), bad


def entry_of(value: Mapping[str, Any]) -> Entry:
    """Raises one of many errors where it is none."""
    if value.get(SEAL, "") not in ("", sealed(value)):
        raise ValueError("it was changed")
    times = {str(way): spread_of(spread) for way, spread in value["times"].items()}
    said = value["circumstances"]
    names = [field.name for field in dataclasses.fields(Circumstances)]
    circumstances = Circumstances(**{name: text(said[name]) for name in names})
    dt.date.fromisoformat(circumstances.date)
    found = Entry(
        sort=value["sort"],
        kind=text(value["kind"]),
        ranges={
            str(n): (whole(least), whole(most)) for n, (least, most) in value["ranges"].items()
        },
        at={str(name): whole(size) for name, size in value["at"].items()},
        times=times,
        chosen=value["chosen"],
        circumstances=circumstances,
    )
    if found.sort not in SORTS or found.chosen not in times or not found.covers(found.at):
        raise ValueError("an entry that contradicts itself")
    return found


def spread_of(value: Mapping[str, Any]) -> Spread:
    """Raises ValueError where these are no times."""
    median, p10, p90 = (float(value[name]) for name in ("median", "p10", "p90"))
    if not 0 < p10 <= median <= p90 < float("inf"):
        raise ValueError("times that are not in order")
    return Spread(median, p10, p90, whole(value["samples"]))


def text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("not a text")
    return value


def whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError("not a whole number")
    return value


def dicts_in(damaged: str) -> Iterator[Any]:
    """The whole JSON objects in a text that look like entries."""
    decoder, at = json.JSONDecoder(), damaged.find("{")
    while at >= 0:
        try:
            value, end = decoder.raw_decode(damaged, at)
        except (ValueError, RecursionError):
            value, end = None, at + 1
        if isinstance(value, dict) and "circumstances" in value:
            yield value
        else:
            end = at + 1
        at = damaged.find("{", end)
