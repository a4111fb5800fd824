"""The measured gate end to end: a simulated GPU and clock, real compiles of a tiny Llama."""

from __future__ import annotations

import datetime as dt
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import tile_backend
from tests.json_schema import violations
from tests.simulated_gpu import GPU, SimulatedClock, close, losing, simulated, winning
from tests.test_docs import ROOT
from tile_backend import inductor, tiny_model
from tile_backend.lowering import choice
from tile_backend.report import Report

IDS = tiny_model.tokens(2, 16)


@pytest.fixture(scope="module")
def llama() -> torch.nn.Module:
    torch.manual_seed(0)
    return tiny_model.tiny_model("llama").eval()


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch.compiler.reset()
    with torch.no_grad(), inductor.without_codegen():
        yield


def compiled(model: torch.nn.Module, **options: Any) -> Report:
    ours = {f"tilegym.{name}": value for name, value in options.items()}
    torch.compiler.reset()
    function = torch.compile(model, backend="tilegym", options={"tilegym.strict": "expect", **ours})
    found = function(IDS, use_cache=False).logits
    torch.testing.assert_close(found, model(IDS, use_cache=False).logits)
    report = tile_backend.last_report()
    assert report is not None
    return report


def decisions(report: Report) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for site in report.fused:
        found.setdefault(site.fusion, set()).add(str(site.decision))
    return found


@pytest.mark.parametrize(
    ("clock", "decision", "words"),
    (
        (winning, "kernel", "5 us (4.9 to 5.1), Inductor 10 (9.8 to 10.2)"),
        pytest.param(
            *(losing, "reference", "20 us (19.6 to 20.4), Inductor 10 (9.8 to 10.2)"),
            marks=pytest.mark.full,
        ),
        (close, "reference", "9.9 us (9.7 to 10.1), Inductor 10 (9.8 to 10.2)"),
    ),
)
def test_a_kernel_goes_in_where_it_wins_by_more_than_the_spread(
    clock: Callable[[], SimulatedClock],
    decision: str,
    words: str,
    llama: torch.nn.Module,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    with simulated(monkeypatch, tmp_path, clock()) as asked:
        report = compiled(llama, tune="on")
        assert {d for found in decisions(report).values() for d in found} == {decision}
        assert f"measured today on {GPU.name}: {words}" in report.to_text()
        explained = tile_backend.explain(llama, IDS, use_cache=False)
    assert [s.decision for s in explained.fused] == [s.decision for s in report.fused]
    stored = json.loads((tmp_path / "sm_90.json").read_text())
    kinds = [entry["kind"] for entry in stored["entries"]]
    assert len(asked.asked) == len(kinds) == len(set(kinds)), "identical layers are measured once"
    assert len(kinds) < len(report.fused)
    lost = [entry["chosen"] == "inductor" for entry in stored["entries"]]
    assert lost == [decision == "reference"] * len(kinds)


def test_stored_evidence_is_used_and_not_measured_again(
    llama: torch.nn.Module, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with simulated(monkeypatch, tmp_path, winning()):
        first = compiled(llama, tune="on")
    with simulated(monkeypatch, tmp_path, losing()) as clock:
        second = compiled(llama, tune="on")
        third = compiled(llama)
    assert clock.asked == []
    assert decisions(first) == decisions(second) == decisions(third)
    assert {s.decision.basis for s in first.fused if s.decision} == {"measured"}
    assert {s.decision.basis for s in third.fused if s.decision} == {"user"}


def unsealed(path: Path) -> str:
    """A store as somebody who mends it by hand would leave it: without the digests of entries."""
    return re.sub(r',\s*"sha256": "[0-9a-f]+"', "", path.read_text())


def test_evidence_beside_another_inductor_counts_until_there_is_better(
    llama: torch.nn.Module, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with simulated(monkeypatch, tmp_path, winning()):
        compiled(llama, tune="on")
    path = tmp_path / "sm_90.json"
    path.write_text(unsealed(path).replace(f'"{torch.__version__}"', '"1.13.1"'))
    with simulated(monkeypatch, tmp_path, losing()) as clock:
        old = compiled(llama)
        assert clock.asked == []
        new = compiled(llama, tune="on")
        assert clock.asked
    assert f"measured today on {GPU.name} with torch 1.13.1: 5 us" in old.to_text()
    assert f"measured today on {GPU.name}: 20 us" in new.to_text()
    assert "1.13.1" not in path.read_text()
    assert {s.decision for s in new.fused} == {"reference"}


@pytest.mark.full
def test_another_process_uses_the_store(
    llama: torch.nn.Module, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with simulated(monkeypatch, tmp_path, winning()):
        here = tile_backend.explain(llama, IDS, use_cache=False)
        assert {s.decision.basis for s in here.fused if s.decision} == {"estimated"}
        report = compiled(llama, tune="on")
        here = tile_backend.explain(llama, IDS, use_cache=False)
    found = subprocess.run(
        [sys.executable, "-m", "tests.choice_program", str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
    )
    there = json.loads(found.stdout)
    assert there["asked"] == []
    assert there["decisions"] == [str(site.decision) for site in report.fused]
    assert there["json"] == here.to_json(), "two processes write the same"


def test_without_evidence_the_static_rule_decides(
    llama: torch.nn.Module, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with simulated(monkeypatch, tmp_path, winning()) as clock:
        report = compiled(llama)
    assert clock.asked == []
    assert {s.decision.basis for s in report.fused if s.decision} == {"estimated"}
    assert "estimated: no clear gain, 1 launch and" in report.to_text()
    assert not (tmp_path / "sm_90.json").exists()


def test_a_clock_that_fails_costs_nothing_but_the_measurement(
    llama: torch.nn.Module, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def broken(way: str) -> float:
        raise RuntimeError("the clock stands still\nand more")

    with simulated(monkeypatch, tmp_path, SimulatedClock(broken)):
        report = compiled(llama, tune="on")
    for site in report.fused:
        assert site.decision is not None
        assert site.decision.basis == "estimated"
        words = "; not measured: RuntimeError: the clock stands still"
        assert site.decision.evidence.endswith(words)


def test_what_does_not_fit_is_not_measured(
    llama: torch.nn.Module, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tile_backend.lowering.memory_bound.free", lambda device: 1000)
    with simulated(monkeypatch, tmp_path, winning()) as clock:
        report = compiled(llama, tune="on")
    assert clock.asked == []
    assert "not measured: too large: it would take about 0.0 GiB" in report.to_text()


def test_other_kernels_and_other_gpus_are_no_evidence(
    llama: torch.nn.Module, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with simulated(monkeypatch, tmp_path, winning()):
        compiled(llama, tune="on")
    path = tmp_path / "sm_90.json"
    for old, new, words in (
        ('"sources": "', '"sources": "0', "it was of other kernels"),
        (GPU.name, "NVIDIA H100", "it was on NVIDIA H100"),
    ):
        text = path.read_text()
        path.write_text(unsealed(path).replace(old, new))
        with simulated(monkeypatch, tmp_path, winning()):
            report = compiled(llama)
        path.write_text(text)
        bases = {s.decision.basis for s in report.fused if s.decision}
        assert bases == {"estimated"}
        today = dt.datetime.now(dt.UTC).date().isoformat()
        assert f"; a measurement of {today} does not count: {words}" in report.to_text()


def test_a_corrupt_store_is_a_warning_and_the_static_rule(
    llama: torch.nn.Module, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "sm_90.json").write_text("{ not a store")
    with (
        simulated(monkeypatch, tmp_path, winning()),
        pytest.warns(RuntimeWarning, match="is damaged"),
    ):
        report = compiled(llama)
    assert {s.decision.basis for s in report.fused if s.decision} == {"estimated"}


def test_the_settings_of_the_compiler_are_part_of_the_question(
    llama: torch.nn.Module, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert choice.settings_of("reduce-overhead", {"triton.cudagraphs": True}) == ""
    assert choice.settings_of("max-autotune-no-cudagraphs", {}) == "mode=max-autotune"
    with simulated(monkeypatch, tmp_path, winning()):
        compiled(llama, tune="on")
        torch.compiler.reset()
        options = {"mode": "max-autotune"}
        torch.compile(llama, backend="tilegym", options=options)(IDS, use_cache=False)
    report = tile_backend.last_report()
    assert report is not None
    assert {s.decision.basis for s in report.fused if s.decision} == {"estimated"}


def test_the_json_of_a_measurement_follows_the_schema(
    llama: torch.nn.Module, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with simulated(monkeypatch, tmp_path, winning()):
        report = compiled(llama, tune="on")
    found = json.loads(report.to_json())
    schema = json.loads((ROOT / "docs/report.schema.json").read_text())
    assert list(violations(found, schema, schema, "report")) == []
    measured = found["sites"][0]["decision"]["measurement"]
    assert measured["gpu"] == GPU.name
    assert measured["times"]["inductor"]["median"] == 10.0
    assert measured["date"] in found["sites"][0]["decision"]["evidence"]
    assert "today" not in found["sites"][0]["decision"]["evidence"]


def test_training_slices_are_measured_forward_and_backward(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    norm = torch.nn.RMSNorm(32)
    x = torch.randn(4, 32, requires_grad=True)
    with simulated(monkeypatch, tmp_path, winning()), torch.enable_grad():
        options = {"tilegym.tune": "on", "tilegym.strict": "expect"}
        result = torch.compile(norm, backend="tilegym", options=options)(x)
        result.sum().backward()
    (entry,) = json.loads((tmp_path / "sm_90.json").read_text())["entries"]
    assert entry["kind"].endswith(" trains")
    assert x.grad is not None
    assert GPU.name == entry["circumstances"]["gpu"]
