"""Two reports of a model compared: what is a change, how it is said, and what is no dump at all."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from tests.report_samples import EPSILON, FACTS, REPORT, declined, near_miss, norm
from tile_backend.dump_comparison import compare
from tile_backend.errors import DumpError
from tile_backend.lowering.site import Decision, Site
from tile_backend.report import Report
from tile_backend.saved_report import SavedReport, load


def saved(folder: Path, *sites: Site, **facts: Any) -> SavedReport:
    report = Report("Tiny", graphs=(), **facts).extended(sites, FACTS)
    folder.mkdir(exist_ok=True)
    (folder / "report.json").write_text(report.to_json())
    return load(folder)


def lines(tmp_path: Path, before: list[Site], after: list[Site]) -> list[list[str]]:
    """The text of the comparison, in words."""
    found = compare(saved(tmp_path / "a", *before), saved(tmp_path / "b", *after))
    return [line.split() for line in found.to_text().splitlines()]


def test_layers_that_lost_the_same_site_are_one_line(tmp_path: Path) -> None:
    paths = [f"model.layers.{i}.mlp" for i in range(3)]
    fused = [dataclasses.replace(norm(path), fusion="silu_mul") for path in paths]
    head, line = lines(tmp_path, fused, [*map(declined, paths[:2]), fused[2]])
    assert " ".join(head) == "Tiny: 2 lost, 0 gained, 0 changed, 0 obstacle, 1 the same"
    assert " ".join(line) == (
        "lost silu_mul x2 model.layers.{0..1}.mlp modeling.py:61"
        " declined: the gate expects no gain for so few rows"
    )


def test_a_site_that_is_fused_now_says_what_it_was(tmp_path: Path) -> None:
    fused = dataclasses.replace(norm("model.final"), fusion="add_rms_norm")
    _, line = lines(tmp_path, [near_miss("model.final")], [fused])
    assert " ".join(line) == (
        f"gained add_rms_norm model.final modeling.py:67 was near-miss: {EPSILON.text}"
    )
    _, line = lines(tmp_path, [], [fused])
    assert line[-3:] == ["was", "not", "there"]


def test_a_site_that_is_fused_in_another_way_says_how(tmp_path: Path) -> None:
    kernel = norm("model.norm", decision=Decision("kernel", "measured"))
    other = dataclasses.replace(norm("model.norm"), bindings={"rounding": "scale", "new": 1})
    _, line = lines(tmp_path, [kernel], [other])
    assert " ".join(line) == (
        "changed rms_norm model.norm modeling.py:67"
        " choice kernel -> reference; rounding once -> scale; kv inf -> none; new none -> 1"
    )


def test_another_obstacle_is_a_change_and_the_same_is_none(tmp_path: Path) -> None:
    head, line = lines(
        tmp_path,
        [declined("model.mlp"), near_miss("model.norm")],
        [declined("model.mlp", EPSILON), near_miss("model.norm")],
    )
    assert " ".join(head).endswith("1 obstacle, 1 the same")
    assert line[:3] == ["obstacle", "silu_mul", "model.mlp"]
    assert "few rows -> declined: epsilon is added" in " ".join(line)


def test_a_new_graph_break_moves_sites_and_changes_none(tmp_path: Path) -> None:
    sites = [norm("model.norm"), norm("model.norm")]
    before = saved(tmp_path / "a", *sites)
    split = Report("Tiny").extended(sites[:1], FACTS).extended(sites[1:], FACTS)
    (tmp_path / "b.json").write_text(split.to_json())
    found = compare(before, load(tmp_path / "b.json"))
    assert (found.changes, found.same) == ({}, 2)


def test_what_makes_it_doubtful_is_said(tmp_path: Path) -> None:
    before = saved(tmp_path / "a", norm("model.norm"), complete=False)
    content = json.loads(REPORT.to_json())
    content.update(tile_backend="9.9", title="Other")
    (tmp_path / "b.json").write_text(json.dumps(content))
    head, *notes = compare(before, load(tmp_path / "b.json")).to_text().splitlines()
    assert head.startswith("Tiny -> Other: ")
    assert notes[0].endswith(" -> 9.9")
    assert notes[1] == "the first report is incomplete: it may lack sites"


@pytest.mark.parametrize(
    ("content", "cause"),
    (
        ("{", "it is not JSON"),
        ("[]", "it has no schema_version, and this version reads"),
        ('{"schema_version": 99}', "it has schema_version 99, and this version reads"),
        ('{"schema_version": 4}', "it is no report: KeyError"),
        ('{"schema_version": 4, "title": "", "sites": [3]}', "it is no report: KeyError"),
    ),
)
def test_what_is_no_dump_is_a_clear_error(content: str, cause: str, tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(content)
    with pytest.raises(DumpError, match=cause) as caught:
        load(tmp_path)
    assert str(tmp_path / "report.json") in str(caught.value)


def test_a_site_of_another_shape_is_a_clear_error(tmp_path: Path) -> None:
    content = json.loads(REPORT.to_json())
    content["sites"][0] = 3
    (tmp_path / "report.json").write_text(json.dumps(content))
    with pytest.raises(DumpError, match="it is no report: TypeError"):
        load(tmp_path)
