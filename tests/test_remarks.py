"""Remarks: their words, the filter language, and what is logged at which level."""

from __future__ import annotations

import logging

import pytest

from tests.report_samples import EPSILON, FACTS, REPORT, declined, near_miss, norm
from tile_backend import remarks
from tile_backend.errors import BadOptionValue
from tile_backend.options import Options
from tile_backend.remark_filter import RemarkFilter
from tile_backend.report import GraphFacts, Report

EVERYTHING = Options().remarks
EVERY_REMARK = [
    "fused rms_norm x4 model.layers.{0..3}.input_layernorm modeling.py:67: left to Inductor",
    "fused rms_norm model.norm modeling.py:67: left to Inductor",
    (
        "declined silu_mul x2 model.layers.{0,3}.mlp modeling.py:61: "
        "the gate expects no gain for so few rows"
    ),
    (
        "near-miss add_rms_norm model.final modeling.py:71: 9/10 ops; epsilon is added after the "
        "root, "
        "where before is expected. fix: add it to the mean"
    ),
]


def lines(report: Report, wanted: str = EVERYTHING) -> list[str]:
    return [str(remark) for remark in remarks.remarks(report, RemarkFilter.parse(wanted))]


def test_one_line_per_distinct_remark() -> None:
    assert lines(REPORT) == EVERY_REMARK


@pytest.mark.parametrize(
    ("wanted", "indices"),
    (
        ("", []),
        ("fused", [0, 1]),
        ("declined,near-miss", [2, 3]),
        ("near-miss:attention", []),
        ("near-miss:add_rms_norm", [3]),
        ("near-miss:*rms_norm", [3]),
        ("fused@model.norm", [1]),
        ("fused:rms_norm@model.layers, declined:silu_mul@model.layers.*.mlp", [0, 2]),
        ("analysis", []),
    ),
)
def test_filter(wanted: str, indices: list[int]) -> None:
    assert lines(REPORT, wanted) == [EVERY_REMARK[index] for index in indices]


def test_sites_are_filtered_before_they_are_folded() -> None:
    assert lines(REPORT, "fused@model.layers.[12]") == [
        "fused rms_norm x2 model.layers.{1..2}.input_layernorm modeling.py:67: left to Inductor"
    ]


@pytest.mark.parametrize("text", ("missed", "fused:", "fused@", "fused attention", "near_miss"))
def test_a_bad_clause_is_named(text: str) -> None:
    with pytest.raises(BadOptionValue) as caught:
        RemarkFilter.parse(f"declined,{text}")
    assert str(caught.value) == (
        f"bad value {text!r} for tilegym.remarks: allowed is kind[:fusion][@module-glob], "
        "separated by commas, with kind one of fused, declined, near-miss, analysis."
    )


def test_analysis_remarks() -> None:
    facts = GraphFacts(
        break_reason="print at f.py:3",
        anchored=("attention", "rms_norm"),
        unclaimed=("attention",),
    )
    report = Report("f").extended([norm("a")], facts).ended("f.py:9: calls numpy")
    assert lines(report, "analysis") == [
        "analysis graph 0: ended early: print at f.py:3",
        "analysis: capture stopped: f.py:9: calls numpy",
        "analysis attention: an anchor op occurs, but no spelling came close",
    ]


def logged(report: Report, caplog: pytest.LogCaptureFixture, level: int) -> list[tuple[str, str]]:
    with caplog.at_level(level, logger="tile_backend"):
        remarks.emit(report, Options())
    assert {record.name for record in caplog.records} == {"tile_backend.remarks"}
    return [(record.levelname, record.getMessage()) for record in caplog.records]


SUMMARY = ("INFO", "Tiny: 5 sites fused, 2 declined, 1 near miss (rms_norm 5)")


def test_a_compile_is_one_line_at_info(caplog: pytest.LogCaptureFixture) -> None:
    assert logged(REPORT, caplog, logging.INFO) == [SUMMARY]


def test_every_remark_is_logged_at_debug(caplog: pytest.LogCaptureFixture) -> None:
    assert logged(REPORT, caplog, logging.DEBUG) == [
        SUMMARY,
        *(("DEBUG", line) for line in EVERY_REMARK),
    ]


@pytest.mark.parametrize(
    ("report", "words"),
    (
        (
            Report("Tiny", (near_miss("a.0"), near_miss("a.1"), declined("b")), (FACTS,)),
            "Tiny: nothing was fused, although it holds ops of add_rms_norm, rms_norm, silu_mul. "
            "Main reason: add_rms_norm x2 at a.{0..1} modeling.py:71: 9/10 ops; " + EPSILON.text,
        ),
        (
            Report("Tiny", (), (FACTS,)),
            (
                "Tiny: nothing was fused, although it holds ops of rms_norm. Main reason: no "
                "spelling "
                "of them came close; TORCH_LOGS='+tile_backend' shows every decision."
            ),
        ),
    ),
    ids=["near misses", "anchors only"],
)
def test_a_model_with_anchors_and_nothing_fused_is_a_warning(
    report: Report, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    level, text = logged(report, caplog, logging.WARNING)[0]
    assert level == "WARNING"
    assert text.startswith(words)


def test_a_model_without_anchors_is_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    found = logged(Report("Linear", (), (GraphFacts(),)), caplog, logging.INFO)
    assert found == [("INFO", "Linear: 0 sites fused, 0 declined, 0 near misses")]
