"""The measured gate on a GPU, with its real clock; test_choice has the same on a simulated one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import tile_backend
from tests import simulated_gpu
from tile_backend import tiny_model
from tile_backend.lowering import device_clock, oracle
from tile_backend.lowering.budget import within_budget
from tile_backend.lowering.tuning_entry import INDUCTOR, Spread

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    monkeypatch.setenv("TILEGYM_TUNING", str(tmp_path))
    simulated_gpu.forget()
    torch.compiler.reset()
    with torch.no_grad():
        yield tmp_path
    simulated_gpu.forget()


def entries(folder: Path) -> list[dict[str, object]]:
    (path,) = folder.glob("*.json")
    found: list[dict[str, object]] = json.loads(path.read_text())["entries"]
    return found


def test_what_is_measured_is_what_runs(store: Path) -> None:
    model = tiny_model.tiny_model("llama", dtype=torch.bfloat16).eval().cuda()
    ids = tiny_model.tokens(2, 64).cuda()
    options = {"tilegym.tune": "on", "tilegym.strict": "expect"}
    found = torch.compile(model, backend="tilegym", options=options)(ids, use_cache=False).logits
    with oracle.Float64():
        exact = oracle.widened(model)(ids, use_cache=False).logits
    verdict = within_budget(found, exact, model(ids, use_cache=False).logits)
    assert verdict, str(verdict)
    report = tile_backend.last_report()
    assert report is not None
    for site in report.fused:
        assert site.decision is not None
        measured = site.decision.measurement
        assert measured is not None, site.decision.evidence
        assert measured.gpu == torch.cuda.get_device_name()
        goes_in = measured.chosen != INDUCTOR
        assert (site.decision == "kernel") <= goes_in
        if goes_in:
            assert measured.times[measured.chosen].beats(measured.times[INDUCTOR])
    stored = entries(store)
    torch.compiler.reset()
    simulated_gpu.forget()
    torch.compile(model, backend="tilegym", options=options)(ids, use_cache=False)
    again = tile_backend.last_report()
    assert again is not None
    assert [s.decision for s in again.fused] == [s.decision for s in report.fused]
    assert {s.decision.basis for s in again.fused if s.decision} == {"user"}
    assert entries(store) == stored, "nothing was measured again"


def test_a_slice_that_trains(store: Path) -> None:
    norm = torch.nn.RMSNorm(1024, device="cuda", dtype=torch.bfloat16)
    x = torch.randn(512, 1024, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    options = {"tilegym.tune": "on", "tilegym.strict": "expect"}
    with torch.enable_grad():
        torch.compile(norm, backend="tilegym", options=options)(x).sum().backward()
    (entry,) = entries(store)
    assert str(entry["kind"]).endswith(" trains")
    assert x.grad is not None


def test_the_clock_sees_twice_the_work() -> None:
    x = torch.randn(2**26, device="cuda")
    ways = {"once": lambda: x.sin(), "twice": lambda: (x.sin(), x.sin())}
    found = device_clock.until_narrow(device_clock.time_rounds, ways)
    once, twice = (device_clock.spread(found[name]) for name in ways)
    assert isinstance(once, Spread)
    assert once.beats(twice)
