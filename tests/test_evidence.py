"""What stored measurements say: which count, which way wins, and what a range of sizes gets."""

from __future__ import annotations

import datetime as dt

import pytest
import torch

from tile_backend.lowering import evidence
from tile_backend.lowering.measurement import Measurement
from tile_backend.lowering.tuning_entry import INDUCTOR, Circumstances, Entry, Kind, Spread
from tile_backend.lowering.tuning_store import Found

BOTH = "rotary_qk+attention"
OTHER = "1.13.1+cu117"
OPS = {INDUCTOR: 0, "attention": 1, "rotary_qk": 1, BOTH: 2}


def spread(median: float, scatter: float = 0.02) -> Spread:
    return Spread(median, median * (1 - scatter), median * (1 + scatter), 20)


def entry(
    rows: tuple[int, int],
    ours: float,
    date: str = "2026-01-02",
    way: str = "rms_norm",
    of_torch: str = torch.__version__,
) -> Entry:
    times = {INDUCTOR: spread(10.0), way: spread(ours)}
    chosen = evidence.fastest(times, {INDUCTOR: 0, way: 1})
    circumstances = Circumstances(date, "NVIDIA H200", "", of_torch, "1.7.0", "13.4", "")
    return Entry(
        "gate", "rms_norm", {"rows": rows}, {"rows": rows[0]}, times, chosen, circumstances
    )


def kind(least: int, most: int, at: int = 0) -> Kind:
    return Kind("rms_norm", {"rows": at or least}, {"rows": least}, {"rows": most})


@pytest.mark.parametrize(
    ("times", "way"),
    (
        ({INDUCTOR: 10.0, BOTH: 5.0, "attention": 7.0, "rotary_qk": 9.0}, BOTH),
        ({INDUCTOR: 10.0, BOTH: 9.8, "attention": 9.9, "rotary_qk": 9.7}, INDUCTOR),
        ({INDUCTOR: 10.0, BOTH: 5.0, "attention": 5.1, "rotary_qk": 12.0}, "attention"),
        ({INDUCTOR: 10.0, BOTH: 11.0, "attention": 12.0, "rotary_qk": 8.0}, "rotary_qk"),
    ),
)
def test_the_fastest_way_that_wins_clearly(times: dict[str, float], way: str) -> None:
    assert evidence.fastest({name: spread(t) for name, t in times.items()}, OPS) == way


def counting(*found: Found) -> list[Found]:
    return evidence.counting(found, (INDUCTOR, "rms_norm"))


def test_a_later_measurement_of_the_user_replaces_the_shipped_one() -> None:
    shipped = Found(entry((64, 127), 5.0, "2026-01-02"), "shipped")
    later, same, earlier = (
        Found(entry((64, 127), 20.0, date), "user")
        for date in ("2026-01-03", "2026-01-02", "2026-01-01")
    )
    elsewhere = Found(entry((128, 255), 20.0, "2026-01-03"), "user")
    assert counting(shipped, later) == [later]
    assert counting(shipped, same) == [shipped]
    assert counting(shipped, earlier) == [shipped]
    assert counting(shipped, elsewhere) == [shipped, elsewhere]


def test_one_of_this_torch_replaces_one_of_another_whatever_the_date() -> None:
    other = entry((64, 127), 5.0, "2026-01-03", of_torch=OTHER)
    here = entry((64, 127), 20.0, "2026-01-02")
    for origins in (("user", "shipped"), ("shipped", "user")):
        one, another = Found(other, origins[0]), Found(here, origins[1])
        assert counting(one, another) == [another]
    assert counting(Found(other, "shipped")) == [Found(other, "shipped")], "better than nothing"


def test_ranges_that_share_one_size_meet() -> None:
    shipped = Found(entry((64, 128), 5.0, "2026-01-02"), "shipped")
    later = Found(entry((128, 255), 20.0, "2026-01-03"), "user")
    assert counting(shipped, later) == [later]


def test_entries_of_other_ways_do_not_count() -> None:
    assert counting(Found(entry((64, 127), 5.0, way="softmax"), "user")) == []


def choice(of: Kind, *entries: Entry) -> evidence.Choice:
    found = evidence.choice([Found(e, "user") for e in entries], of, ("add", "to", "add"))
    assert found is not None
    return found


def test_nothing_stored_is_no_choice() -> None:
    assert evidence.choice([], kind(64, 64), ()) is None


def test_one_size() -> None:
    found = choice(kind(64, 64), entry((64, 127), 5.0))
    assert (found.way, found.basis, found.note) == ("rms_norm", "user", "")


def test_a_range_whose_entries_agree() -> None:
    found = choice(kind(2, 4096), entry((64, 127), 5.0), entry((128, 255), 6.0))
    assert found.way == "rms_norm"
    assert (
        found.note
        == "; one choice for all sizes, measured at rows 64 to 127 and at rows 128 to 255"
    )


def test_a_range_in_which_the_op_loses_somewhere_is_left_to_inductor() -> None:
    found = choice(kind(2, 4096, 64), entry((64, 127), 5.0), entry((128, 255), 20.0))
    assert found.way == INDUCTOR
    assert found.note.endswith("measured at rows 64 to 127 and at rows 128 to 255, some lose")
    assert found.measurement is not None
    assert found.measurement.times["rms_norm"].median == 20.0, "the entry that decides is shown"


def test_a_range_in_which_the_op_wins_or_ties_gets_it() -> None:
    found = choice(kind(2, 4096, 64), entry((64, 127), 5.0), entry((128, 255), 9.95))
    assert found.way == "rms_norm"
    assert found.note.endswith("none loses")


@pytest.mark.parametrize(
    ("today", "when"),
    (
        (dt.date(2026, 1, 2), "today"),
        (dt.date(2026, 1, 3), "yesterday"),
        (dt.date(2026, 1, 5), "3 days ago"),
        (None, "2026-01-02"),
    ),
)
def test_the_sentence(today: dt.date | None, when: str) -> None:
    measured = Measurement.of(entry((64, 127), 12.1), INDUCTOR, ("add", "to", "add"))
    assert measured.sentence(today) == (
        f"measured {when} on NVIDIA H200: 12.1 us (11.9 to 12.3), Inductor 10 (9.8 to 10.2),"
        " with add, to"
    )
    assert measured.torch == torch.__version__


def test_the_sentence_names_another_torch() -> None:
    measured = Measurement.of(entry((64, 127), 5.0, of_torch=OTHER), "rms_norm", ())
    assert measured.torch == OTHER
    assert measured.sentence().startswith(
        "measured 2026-01-02 on NVIDIA H200 with torch 1.13.1+cu117: 5 us"
    )
