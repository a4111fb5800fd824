"""Reports: the one-screen text word for word, the JSON against its schema, and their arithmetic."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

from tests.json_schema import violations
from tests.report_samples import CPU, FACTS, REPORT, declined, near_miss, norm
from tile_backend.lowering.reason import ReasonKind
from tile_backend.lowering.site import Decision
from tile_backend.report import GraphFacts, Report

SCHEMA = json.loads((Path(__file__).parents[1] / "docs" / "report.schema.json").read_text())


def test_text_is_one_screen_with_layers_folded() -> None:
    golden = Path(__file__).parent / "golden" / "report.txt"
    assert REPORT.to_text() + "\n" == golden.read_text()
    assert str(REPORT) == REPORT.to_text()


def test_text_of_an_empty_report() -> None:
    assert Report("f", (), (GraphFacts(),)).to_text() == (
        "tilegym: 0 sites fused, 0 declined, 0 near misses   (graph 1/1, f)"
    )


def test_text_says_why_graphs_ended_and_where_capture_stopped() -> None:
    report = Report("f").extended([norm("a")], GraphFacts(break_reason="print at f.py:3"))
    report = report.extended([norm("b")], GraphFacts()).ended("f.py:9: calls numpy")
    lines = report.to_text().splitlines()
    assert lines[0].endswith("(2 graphs, f)")
    assert lines[-2:] == ["graph 0 ended: print at f.py:3", "incomplete  f.py:9: calls numpy"]


def test_text_stays_on_one_screen_and_says_what_it_leaves_out() -> None:
    sites = [norm(f"part_{i}") for i in range(20)] + [declined(f"part_{i}") for i in range(20)]
    lines = Report("Wide", tuple(sites), (FACTS,)).to_text().splitlines()
    assert len(lines) <= 40
    assert "fused     ... and 6 more sites: see report.save(folder)" in lines
    assert "declined  ... and 12 more sites: see report.save(folder)" in lines


def test_decisions_are_told_apart_with_their_evidence() -> None:
    kernel = Decision("kernel", "measured: 3 us against 5 us")
    report = Report("f", (norm("a.0"), norm("a.1", decision=kernel), norm("a.2")), (FACTS,))
    text = report.to_text()
    assert "left to Inductor x2: the inputs are on a CPU" in text
    assert "run a kernel x1: measured: 3 us against 5 us" in text
    assert "rms_norm x2  a.{0,2}" in text


def test_counts_are_of_fused_sites_sorted_by_name() -> None:
    assert REPORT.counts == {"rms_norm": 5}
    assert [site.status for site in REPORT.having("declined")] == ["declined"] * 2
    assert REPORT.anchored == ("rms_norm",)


def test_extending_renumbers_the_sites_of_the_new_graph() -> None:
    report = REPORT.extended([norm("again")], GraphFacts(dtypes=("bfloat16",)))
    assert report.counts == {"rms_norm": 6}
    assert (report.sites[-1].graph, len(report.graphs)) == (1, 2)
    assert "2 graphs, Tiny, float32+bfloat16" in report.to_text()


def test_json_follows_its_schema() -> None:
    content = json.loads(REPORT.ended("f.py:1").to_json())
    assert list(violations(content, SCHEMA, SCHEMA, "report")) == []
    assert content["schema_version"] == SCHEMA["properties"]["schema_version"]["const"]


@pytest.mark.parametrize(
    ("change", "words"),
    (
        ({"schema_version": 1}, "report.schema_version: 1 is not 4"),
        ({"sites": [{}]}, "report.sites[0]: fusion is missing"),
        ({"counts": {"a": 0}}, "report.counts.a: 0 is below 1"),
        ({"extra": 1}, "report: extra is not allowed"),
        ({"complete": 1}, "report.complete: 1 is not boolean"),
    ),
)
def test_the_schema_refuses_what_is_wrong(change: dict[str, object], words: str) -> None:
    content = json.loads(REPORT.to_json()) | change
    assert words in list(violations(content, SCHEMA, SCHEMA, "report"))


def test_the_schema_knows_every_kind_of_reason() -> None:
    kinds = SCHEMA["$defs"]["reason"]["properties"]["kind"]["enum"]
    assert kinds == [kind.value for kind in ReasonKind]


def test_json_says_everything_about_a_site() -> None:
    site = json.loads(REPORT.to_json())["sites"][0]
    assert site["id"] == "0/rms_norm@model.layers.0.input_layernorm"
    assert site["decision"] == {
        "choice": "reference",
        "evidence": "the inputs are on a CPU",
        "op_in_graph": False,
        "respelled": False,
        "basis": "",
        "measurement": None,
    }
    assert site["call"]["arguments"]["x"]["shape"] == ["s27", 64]
    assert site["bindings"] == {"rounding": "once", "kv": "inf"}
    assert site["before"][0] == {
        "name": "pow_1",
        "text": "pow_1 = hidden.pow(2)",
        "source": "modeling.py:65",
        "code": "h.pow(2).mean(-1)",
    }


def test_two_sites_of_one_module_have_two_identities() -> None:
    sites = json.loads(Report("f", (norm("a"), norm("a")), (FACTS,)).to_json())["sites"]
    assert [site["id"] for site in sites] == ["0/rms_norm@a", "0/rms_norm@a#2"]


def test_a_report_pickles() -> None:
    again = pickle.loads(pickle.dumps(REPORT))
    assert again == REPORT
    assert again.to_json() == REPORT.to_json()
    assert again.sites[0].decision.evidence == CPU.evidence


def test_a_near_miss_without_fix_ends_with_its_reason() -> None:
    site = near_miss("a")
    assert site.reason is not None
    assert "fix:" in Report("f", (site,), (FACTS,)).to_text()
    assert "fix:" not in Report("f", (declined("a"),), (FACTS,)).to_text()
