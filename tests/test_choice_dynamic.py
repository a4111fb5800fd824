"""Dynamic sizes: one choice for the range that a graph allows, without a guard of ours."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch._dynamo.testing import CompileCounter

import tile_backend
from tests.simulated_gpu import SimulatedClock, losing, simulated, winning
from tile_backend import inductor
from tile_backend.lowering.site import Decision


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch.compiler.reset()
    with torch.no_grad(), inductor.without_codegen():
        yield


def norm(x: torch.Tensor) -> torch.Tensor:
    return F.rms_norm(x * 2, (64,))


def compile_at(rows: int, **options: Any) -> tuple[Any, Decision]:
    torch.compiler.reset()
    ours = {f"tilegym.{name}": value for name, value in options.items()}
    function = torch.compile(norm, backend="tilegym", dynamic=True, options=ours)
    function(torch.randn(rows, 64))
    report = tile_backend.last_report()
    assert report is not None
    decision = report.fused[0].decision
    assert decision is not None
    return function, decision


def test_a_range_that_straddles_a_boundary(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with simulated(monkeypatch, tmp_path, winning()):
        _, few = compile_at(8, tune="on")
        assert few == "kernel"
    with simulated(monkeypatch, tmp_path, losing()):
        _, alone = compile_at(8)
        assert alone == "kernel"
        _, many = compile_at(5000, tune="on")
        assert many == "reference", "in the range is a size at which it loses"
        _, again = compile_at(8)
        assert again == "reference"
    assert again.evidence.endswith("measured at rows 8 to 15 and at rows 4096 to 8191, some lose")
    entries = json.loads((tmp_path / "sm_90.json").read_text())["entries"]
    assert sorted(entry["ranges"]["rows"] for entry in entries) == [[8, 15], [4096, 8191]]


def test_a_static_size_asks_its_own_entry(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with simulated(monkeypatch, tmp_path, winning()):
        compile_at(8, tune="on")
    with simulated(monkeypatch, tmp_path, losing()):
        compile_at(5000, tune="on")
        for rows, decision in ((9, "kernel"), (6000, "reference")):
            torch.compiler.reset()
            torch.compile(norm, backend="tilegym", dynamic=False)(torch.randn(rows, 64))
            report = tile_backend.last_report()
            assert report is not None
            assert report.fused[0].decision == decision


def test_no_guard_is_added_and_nothing_is_compiled_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plain = CompileCounter()
    sizes = (8, 9, 100, 5000, 3)
    function = torch.compile(norm, backend=plain, dynamic=True)
    for rows in sizes:
        function(torch.randn(rows, 64))
    assert plain.frame_count == 1
    clock: SimulatedClock = winning()
    with simulated(monkeypatch, tmp_path, clock):
        function, decision = compile_at(8, tune="on")
        assert decision == "kernel"
        with torch.compiler.set_stance("fail_on_recompile"):
            for rows in sizes:
                x = torch.randn(rows, 64)
                torch.testing.assert_close(function(x), norm(x))
    assert len(clock.asked) == 1
