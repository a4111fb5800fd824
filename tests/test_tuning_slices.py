"""`tune`, its second step: slices of a model measured on a simulated GPU, stored, and then used."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import tile_backend
from tests.simulated_gpu import GPU, SimulatedClock, losing, simulated, winning
from tile_backend import inductor, tuning
from tile_backend.targets import Target
from tile_backend.tuning import Tuned
from tile_backend.tuning_measure import Bench


@pytest.fixture(autouse=True)
def gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setattr(tuning, "jobs_of", lambda *_: [])
    torch.compiler.reset()
    with simulated(monkeypatch, tmp_path, losing()), inductor.without_codegen():
        yield


def block(x: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    hidden = F.silu(F.rms_norm(x, (64,)) @ weight) * x
    return F.cross_entropy(hidden.relu() @ weight, labels)


def tuned(clock: SimulatedClock, device: str = "cpu", **given: Any) -> Tuned:
    x, weight = torch.randn(8, 64, device=device), torch.randn(64, 64, device=device)
    x.requires_grad_()
    target = Target("Block", block, (x, weight, torch.ones(8, dtype=torch.int64, device=device)))
    bench = Bench("cpu", lambda *_: None, clock, GPU.name, "1.0")
    torch.compiler.reset()
    return tuning.tune(target, ["sm_90"], bench_of=lambda _: bench, **given)


@pytest.mark.parametrize("device", ("cpu", "meta"))
def test_each_slice_is_measured_and_stored(device: str, tmp_path: Path) -> None:
    clock = winning()
    found = tuned(clock, device)
    assert [row.status for row in found.slices] == ["measured"] * 3
    assert [row.chosen for row in found.slices] == ["rms_norm", "silu_mul", "linear_cross_entropy"]
    assert len(clock.asked) == 3
    text = found.to_text()
    assert "3 slices, 3 measured" in text
    assert "silu_mul: measured 20" in text
    assert "5 us (4.9 to 5.1), Inductor 10 (9.8 to 10.2), with relu" in text
    entries = json.loads((tmp_path / "sm_90.json").read_text())["entries"]
    assert {entry["circumstances"]["driver"] for entry in entries} == {"1.0"}
    assert len(json.loads(found.to_json())["slices"]) == 3


def test_what_is_stored_is_not_measured_again_unless_asked() -> None:
    tuned(winning())
    clock = losing()
    assert [row.status for row in tuned(clock).slices] == ["stored"] * 3
    assert clock.asked == []
    again = tuned(clock, again=True)
    assert [row.chosen for row in again.slices] == ["inductor"] * 3
    assert len(clock.asked) == 3


def test_in_training_forward_and_backward_are_measured() -> None:
    tuned(winning())
    found = tuned(winning(), training=True)
    assert [row.status for row in found.slices] == ["measured"] * 3, "another question"
    assert all(row.kind.endswith(" trains") for row in found.slices)


def test_an_interrupt_loses_one_slice() -> None:
    clock = winning()

    def interrupted(way: str) -> float:
        if len(clock.asked) == 2:
            raise KeyboardInterrupt
        return 5.0

    clock.times = interrupted
    found = tuned(clock)
    assert found.interrupted
    assert [row.status for row in found.slices] == ["measured"]
    assert [row.status for row in tuned(winning()).slices] == ["stored", "measured", "measured"]


def test_a_compile_takes_what_was_measured() -> None:
    tuned(winning())
    torch.compiler.reset()
    inputs = torch.randn(8, 64), torch.randn(64, 64), torch.ones(8, dtype=torch.int64)
    with torch.no_grad():
        torch.compile(block, backend="tilegym", options={"tilegym.strict": "expect"})(*inputs)
    report = tile_backend.last_report()
    assert report is not None
    assert [(str(s.decision), s.decision.basis) for s in report.fused if s.decision] == (
        [("kernel", "user")] * 3
    )
