"""`tile-backend bench`: versions take turns, a wrong one is void, a sentence says who won."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tile_backend import cli, contest, contest_text, dynamo_counts, kernel_events, turns
from tile_backend.contest import Contest, Version
from tile_backend.errors import BadTarget
from tile_backend.lowering.budget import Measured, Verdict
from tile_backend.targets import Target

GOOD, BAD = Verdict((Measured(1.0, 2.0),)), Verdict((Measured(3.0, 2.0),))


# --- rounds ---------------------------------------------------------------------------------------


class Clock:
    """A clock that only the steps move."""

    def __init__(self) -> None:
        self.now = 0.0
        self.order = ""

    def step(self, name: str, seconds: float) -> Callable[[], None]:
        def run() -> None:
            self.now += seconds
            self.order += name

        return run


def test_versions_take_turns_and_each_begins_a_round() -> None:
    clock = Clock()
    steps = {"a": clock.step("a", 2.0), "b": clock.step("b", 3.0)}
    found = turns.time_rounds(steps, 3, lambda: clock.now)
    assert clock.order == "abbaab"
    assert found == {"a": [2.0] * 3, "b": [3.0] * 3}


def test_ratios_are_of_one_round() -> None:
    times = {"inductor": [2.0, 20.0], "tilegym": [1.0, 10.0], "eager": [4.0, 40.0]}
    found = turns.over(times, "inductor")
    assert found["tilegym"] == {"median": 2.0, "p10": 2.0, "p90": 2.0}
    assert found["eager"]["median"] == 0.5
    assert turns.over(times, "another") == {}


# --- who won --------------------------------------------------------------------------------------


def of(verdict: Verdict = GOOD, **seconds: list[float]) -> Contest:
    versions = {n: Version(seconds=s, verdict=GOOD) for n, s in seconds.items()}
    versions["tilegym"].verdict = verdict
    return Contest("Net", "cpu", 3, None, versions)


def test_the_sentence_names_the_winner_and_by_how_much() -> None:
    found = of(eager=[4.0, 4.0, 4.0], inductor=[2.0, 2.2, 2.0], tilegym=[1.0, 1.0, 1.0])
    assert contest_text.sentence(found) == (
        "tilegym wins: it is 4.00 (4.00..4.00) times as fast as eager and 2.00 (2.00..2.16) times"
        " as fast as inductor."
    )


def test_within_the_spread_nobody_wins() -> None:
    found = of(eager=[4.0, 4.0, 4.0], inductor=[2.0, 1.0, 2.0], tilegym=[1.0, 2.0, 1.9])
    assert contest_text.sentence(found) == (
        "No winner within the spread: tilegym and inductor are level (tilegym 1.05 (0.61..1.81)"
        " against inductor); it is 2.11 (2.02..3.62) times as fast as eager."
    )


def test_what_is_wrong_cannot_win() -> None:
    found = of(BAD, eager=[4.0, 4.0], inductor=[2.0, 2.0], tilegym=[1.0, 1.0])
    text = contest_text.to_text(found)
    assert text.splitlines()[-1].startswith("inductor wins: it is 2.00")
    assert f"void: tilegym: {BAD}" in text
    assert json.loads(contest_text.to_json(found))["rows"][2]["over_inductor"] is None
    alone = of(BAD, inductor=[2.0, 2.0], tilegym=[1.0, 1.0])
    assert contest_text.sentence(alone) == "No winner: only inductor ran and is right."


# --- a whole contest ------------------------------------------------------------------------------


@pytest.fixture
def quick(graphs_only: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """No code is built."""
    monkeypatch.setitem(contest.BACKENDS, "inductor", "aot_eager")
    monkeypatch.setattr(contest, "first_steps", lambda device: None)


class Gated(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up = torch.nn.Linear(8, 16), torch.nn.Linear(8, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.silu(self.gate(x)) * self.up(x)


def example() -> tuple[Any, ...]:
    torch.manual_seed(0)
    return Gated(), (torch.randn(4, 8),)


TARGET = "tests.test_contest:example"


def test_the_command_prints_a_table_and_writes_json(
    quick: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "found.json"
    arguments = ["bench", TARGET, "--rounds", "3", "--device", "cpu", "--json", str(file)]
    assert cli.main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Gated on cpu, 3 rounds"
    assert [line.split()[0] for line in lines[2:5]] == ["eager", "inductor", "tilegym"]
    saved = json.loads(file.read_text())
    by_name = {row["version"]: row for row in saved["rows"]}
    assert all(len(row["seconds"]) == 3 and row["correct"] for row in by_name.values())
    assert by_name["eager"]["compile_s"] is by_name["eager"]["graphs"] is None
    assert by_name["tilegym"]["graphs"] == by_name["inductor"]["graphs"] == 1
    assert by_name["inductor"]["kernels"] == by_name["tilegym"]["kernels"] == 3
    assert lines[-1] == saved["sentence"]


def test_a_wrong_version_is_void_and_the_exit_status_says_so(
    quick: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    compiled = contest.compiled

    def wrong(target: Target, name: str, *given: Any) -> Any:
        call = compiled(target, name, *given)
        return (lambda *args: call(*args) * 1.01) if name == "tilegym" else call

    monkeypatch.setattr(contest, "compiled", wrong)
    assert cli.main(["bench", TARGET, "--rounds", "2", "--device", "cpu"]) == 1
    text = capsys.readouterr().out
    assert "void: tilegym: output 0 OVER BUDGET" in text
    assert "tilegym wins" not in text.splitlines()[-1]


def test_what_cannot_be_found_out_has_its_reason(
    quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> Any:
        raise RuntimeError("no\nroom")

    monkeypatch.setattr(contest.step_memory, "peak_mib", fails)
    monkeypatch.setattr(contest.memory_bound, "free", lambda _: 1000)
    module, inputs = example()
    found = contest.hold(Target("Gated", module, inputs), 2, None, "cpu")
    assert found.versions["eager"].missing == {
        "correct": found.versions["inductor"].missing["correct"],
        "peak_mib": "RuntimeError: no room",
    }
    text = contest_text.to_text(found)
    assert "no correct: tilegym: CannotRun: too large: it would take about" in text
    assert "no peak_mib: tilegym: RuntimeError: no room" in text
    assert "not checked" in text


def breaks(x: torch.Tensor) -> torch.Tensor:
    torch._dynamo.graph_break()
    return x.relu()


def test_graph_breaks_are_counted_and_named() -> None:
    torch.compiler.reset()
    with dynamo_counts.graphs() as found:
        torch.compile(lambda x: breaks(x + 1), backend="eager")(torch.ones(2))
    assert found.count == 2
    assert len(found.breaks) >= 1
    target = Target("breaks", breaks, (torch.ones(2),))
    version = Version()
    contest.count_code(target, {"inductor": version, "tilegym": Version()})
    assert "the graph ended early" in version.missing["kernels"]


def test_a_model_without_weights_is_refused() -> None:
    with torch.device("meta"):
        module = Gated()
    with pytest.raises(BadTarget, match="it has no weights"):
        contest.placed(Target("Gated", module), "cpu")


def test_one_round_has_no_spread(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", TARGET, "--rounds", "1"]) == 1
    assert "--rounds 1 has no spread. Give at least 2" in capsys.readouterr().err


def test_kernels_are_the_events_of_the_device() -> None:
    cuda, cpu = torch.autograd.DeviceType.CUDA, torch.autograd.DeviceType.CPU
    events = [
        SimpleNamespace(device_type=cuda, name="triton_poi_fused_add_0"),
        SimpleNamespace(device_type=cuda, name="Memcpy DtoD (Device -> Device)"),
        SimpleNamespace(device_type=cuda, name="Memset (Device)"),
        SimpleNamespace(device_type=cpu, name="cudaLaunchKernel"),
    ]
    assert kernel_events.kernels_in(events) == 1


def test_a_version_that_fails_is_named() -> None:
    found = of(eager=[4.0, 4.0], inductor=[2.0, 2.0], tilegym=[1.0, 1.0])
    broken = dataclasses.replace(found.versions["tilegym"], seconds=[], missing={"time": "no GPU"})
    found = dataclasses.replace(found, versions={**found.versions, "tilegym": broken})
    text = contest_text.to_text(found)
    assert "no time: tilegym: no GPU" in text
    assert text.splitlines()[-1].startswith("inductor wins")
