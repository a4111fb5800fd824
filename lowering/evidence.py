"""What stored measurements say of a slice, for the range of sizes that its graph allows.

Entries count that are of this GPU and of the kernels that are there. Of two for the same sizes that
one counts whose Inductor is of this torch, then the later one. Where a range of sizes meets entries
that choose differently, one choice serves all of it: ops go in only where no entry says that they
lose.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from tile_backend.lowering import tuning_store
from tile_backend.lowering.circumstances import has_this_inductor
from tile_backend.lowering.device import Gpu
from tile_backend.lowering.measurement import Measurement, span
from tile_backend.lowering.site import Basis
from tile_backend.lowering.tuning_entry import INDUCTOR, Entry, Kind, Spread
from tile_backend.lowering.tuning_store import Found


@dataclasses.dataclass(frozen=True)
class Choice:
    """way: of the slice. note: what the report adds to the sentence, "" or "; ..."."""

    way: str
    basis: Basis
    measurement: Measurement | None
    note: str


def fastest(times: Mapping[str, Spread], ops: Mapping[str, int]) -> str:
    """The way that beats Inductor's by more than the spread; of several alike that of fewer ops."""
    winning = [w for w in times if w != INDUCTOR and times[w].beats(times[INDUCTOR])]
    if not winning:
        return INDUCTOR
    best = min(winning, key=lambda way: times[way].median)
    alike = [way for way in winning if not times[best].beats(times[way])]
    return min(alike, key=lambda way: (ops[way], times[way].median))


def counting(found: Sequence[Found], ways: Sequence[str]) -> list[Found]:
    """Without entries of other ways, and without those that another for these sizes replaces.

    Of two that are equally good the shipped one counts.
    """
    known = [f for f in found if set(f.entry.times) == set(ways) and f.entry.chosen in ways]
    return [one for one in known if not any(replaces(other, one) for other in known)]


def replaces(new: Found, old: Found) -> bool:
    if new.origin == old.origin or not overlap(new.entry, old.entry):
        return False
    return worth(new) > worth(old) if new.origin == "user" else worth(new) >= worth(old)


def worth(found: Found) -> tuple[bool, str]:
    """Whether it was Inductor as it is here, and when."""
    circumstances = found.entry.circumstances
    return has_this_inductor(circumstances.torch), circumstances.date


def overlap(one: Entry, other: Entry) -> bool:
    return all(
        least <= other.ranges[name][1] and other.ranges[name][0] <= most
        for name, (least, most) in one.ranges.items()
    )


def choice(found: Sequence[Found], kind: Kind, neighbours: tuple[str, ...]) -> Choice | None:
    """found: entries that count. None without any."""
    if not found:
        return None
    chosen = {f.entry.chosen for f in found}
    way = next(iter(chosen)) if len(chosen) == 1 else common(found)
    shown = nearest([f for f in found if f.entry.chosen == way] or found, kind)
    measurement = Measurement.of(shown.entry, way, neighbours)
    return Choice(way, shown.origin, measurement, of_range(found, kind, way))


def common(found: Sequence[Found]) -> str:
    """For sizes of which some entries choose one way and some another."""
    for way in dict.fromkeys(f.entry.chosen for f in found):
        times = [f.entry.times for f in found]
        if way != INDUCTOR and not any(t[INDUCTOR].beats(t[way]) for t in times):
            return way
    return INDUCTOR


def nearest(found: Sequence[Found], kind: Kind) -> Found:
    """The one that was measured at sizes most like those of the capture."""
    return min(
        found,
        key=lambda f: sum(
            abs(f.entry.at[name].bit_length() - size.bit_length())
            for name, size in kind.sizes.items()
            if name in f.entry.at
        ),
    )


def of_range(found: Sequence[Found], kind: Kind, way: str) -> str:
    """What is said where sizes vary."""
    if all(least == most for least, most in map(kind.range_of, kind.sizes)):
        return ""
    spans = [span(f.entry.ranges) for f in found]
    if len({f.entry.chosen for f in found}) == 1:
        return f"; one choice for all sizes, measured at {' and at '.join(spans)}"
    losing = "some lose" if way == INDUCTOR else "none loses"
    return f"; one choice for all sizes: measured at {' and at '.join(spans)}, {losing}"


def stale(gpu: Gpu, kind: Kind) -> str:
    """That there are measurements which do not count, as a note; or ""."""
    for _, file in tuning_store.files(gpu.arch):
        for entry in file.entries.get(("gate", kind.text), ()):
            if not tuning_store.meets(entry, kind):
                continue
            if entry.circumstances.gpu != gpu.name:
                what = f"was on {entry.circumstances.gpu}"
            elif not tuning_store.is_current(entry):
                what = "was of other kernels"
            else:
                continue
            return f"; a measurement of {entry.circumstances.date} does not count: it {what}"
    return ""
