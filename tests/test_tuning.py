"""`tune`: a model's launches found, pruned, measured, stored; interrupted, and gone on with."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tests.tuning_entries import ARCH
from tile_backend import cli, tuning, tuning_jobs, tuning_measure
from tile_backend.errors import TuningNotKept, UnknownArchitecture
from tile_backend.lowering import launch_configuration, launch_recipe, prune, tuning_store
from tile_backend.lowering.kernels import tileiras
from tile_backend.lowering.kernels.build_error import MissingError
from tile_backend.lowering.kernels.configuration import Configuration, everything
from tile_backend.lowering.launch_recipe import describe
from tile_backend.lowering.reason import Reason, ReasonKind
from tile_backend.targets import Target
from tile_backend.tuning import Tuned, tune
from tile_backend.tuning_measure import Bench

GPU = "Simulated GPU"


@pytest.fixture(autouse=True)
def quick(tuning: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Three configurations of each launch, whose code and results nobody asks for, but on a GPU."""
    if request.node.get_closest_marker("gpu"):
        return

    def some(plan: Any) -> list[Configuration]:
        return list(itertools.islice(everything(plan), 3))

    monkeypatch.setattr(prune, "everything", some)
    monkeypatch.setattr(prune.kernel_code, "missing", lambda *_, **__: {})
    monkeypatch.setattr(prune, "resources_of", lambda _: ({}, "no tool"))
    monkeypatch.setattr(tuning_measure, "disagreeing", lambda *_: {})


class Clock:
    """The last way is the fastest. interrupt_at: the launch at which somebody presses Ctrl-C."""

    def __init__(self, interrupt_at: int = -1) -> None:
        self.launches: set[tuple[str, ...]] = set()
        self.calls = 0
        self.interrupt_at = interrupt_at

    def __call__(
        self, ways: Mapping[str, Callable[[], object]], samples: int
    ) -> dict[str, list[float]]:
        if self.calls == 2 * self.interrupt_at:
            raise KeyboardInterrupt
        self.calls += 1
        times = {"default": 10.0, max(ways): 5.0}
        return {n: [times.get(n, 20.0) + i % 3 / 100 for i in range(samples)] for n in ways}


def bench(clock: Any) -> Callable[[str], Bench | None]:
    return lambda arch: Bench("cpu", lambda *_: None, clock, GPU, "1.0") if arch == ARCH else None


def block(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    normed = F.rms_norm(x, (64,), weight, 1e-6)
    gate, up = normed.chunk(2, -1)
    return F.silu(gate) * up


def target(rows: int = 24) -> Target:
    torch.compiler.reset()  # or a second number of rows would be a dynamic one
    return Target("Block", block, (torch.randn(rows, 64), torch.ones(64)))


def run(clock: Any = None, rows: int = 24, **given: Any) -> Tuned:
    found = tune(target(rows), [ARCH], bench_of=bench(clock or Clock()), slices=False, **given)
    launch_recipe.recipe.cache_clear()
    return found


def statuses(found: Tuned) -> list[str]:
    return [row.status for row in found.rows]


def test_every_launch_is_measured_and_stored(tuning: Path) -> None:
    found = run()
    assert statuses(found) == ["measured", "measured"]
    first, second = found.to_text().splitlines()[1:3]
    assert "rms_norm x=f32[64] weight=f32[64] rounding=once rows=24" in first
    assert "silu_mul gate=f32[32]!strided up=f32[32]!strided" in second
    assert "5.0 us, as planned 10.0 us" in first
    assert found.to_text().splitlines()[0] == f"Block on {GPU} ({ARCH}): 2 launches, 2 measured"
    assert str(tuning / f"{ARCH}.json") in found.to_text()
    entries = tuning_store.opened(tuning / f"{ARCH}.json", ARCH).content.entries
    assert [entry.ranges for entry in entries] == [{"rows": (16, 31)}] * 2
    assert {entry.circumstances.gpu for entry in entries} == {GPU}


def test_a_launch_then_takes_what_won(monkeypatch: pytest.MonkeyPatch) -> None:
    run()
    monkeypatch.setattr(launch_configuration, "gpu_of", lambda _: GPU)
    x, weight = (torch.empty(size, device="meta") for size in ((30, 64), (64,)))
    values = describe((x, weight, 1e-6, 0.0, "once", x))
    names = ("x", "weight", "eps", "offset", "rounding")
    found = launch_recipe.recipe("rms_norm", names, values, ARCH)
    assert found is not None
    entry = next(
        e
        for e in tuning_store.opened(tuning_store.path_of(ARCH), ARCH).content.entries  # type: ignore[arg-type]
        if e.kind.startswith("rms_norm")
    )
    assert entry.chosen != "default"
    assert found.measured == ("rms_norm", ARCH, entry.chosen)


def test_a_second_run_measures_nothing_but_what_is_new() -> None:
    run()
    clock = Clock()
    again = run(clock)
    assert statuses(again) == ["stored", "stored"]
    assert clock.calls == 0
    assert statuses(run(rows=100)) == ["measured", "measured"]
    assert statuses(run(again=True)) == ["measured", "measured"]


def test_an_interrupted_run_loses_one_launch_and_goes_on() -> None:
    found = run(Clock(interrupt_at=1))
    assert found.interrupted
    assert statuses(found) == ["measured"]
    assert "the same command goes on" in found.to_text()
    assert statuses(run()) == ["stored", "measured"]


def test_without_the_gpu_it_prepares() -> None:
    found = tune(target(), ["sm_100"], bench_of=bench(Clock()), slices=False)
    assert statuses(found) == ["to measure", "to measure"]
    text = found.to_text()
    assert text.startswith("Block on sm_100: 2 launches, 2 to measure")
    assert "no sm_100 here: run the same command on a machine with that GPU" in text
    assert "nothing was left out for its resources: no tool" in text
    assert not any(row.entry for row in found.rows)


def test_without_a_compiler_nothing_is_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    reason = Reason(ReasonKind.MISSING_DEPENDENCY, "it is not in the kernel store")

    def missing(codes: Any, *_: Any, **__: Any) -> Any:
        return dict.fromkeys(codes, reason)

    monkeypatch.setattr(prune.kernel_code, "missing", missing)
    found = run()
    assert statuses(found) == ["not measured", "not measured"]
    assert "it is not in the kernel store" in found.to_text()
    assert found.failed
    assert tuning_store.counts() == {}


def test_dynamic_sizes_are_measured_in_each_of_their_ranges() -> None:
    found = run(dynamic=True)
    norms = [row.job.kind for row in found.rows if row.job.kind.text.startswith("rms_norm")]
    assert len(norms) > 1
    assert len({tuple(tuning_jobs.ranges_of(kind).items()) for kind in norms}) == len(norms)


def test_nothing_is_measured_that_cannot_be_kept(tuning: Path) -> None:
    tuning.write_text("a file is in the folder's place")
    clock = Clock()
    with (
        pytest.warns(tuning_store.TuningWarning),
        pytest.raises(TuningNotKept, match=tuning_store.FOLDER),
    ):
        run(clock)
    assert clock.calls == 0


def test_the_json_has_every_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = "rows=8,block=64,warps=4"
    monkeypatch.setattr(tuning_measure, "disagreeing", lambda *_: {wrong: "OVER BUDGET"})
    found = json.loads(run().to_json())
    first = found["launches"][0]
    assert first["sizes"] == {"rows": 24}
    assert first["times"][first["chosen"]]["median"] == pytest.approx(5.0, abs=0.1)
    assert first["left_out"] == {wrong: "OVER BUDGET"}
    assert "give other results" in run(again=True).to_text()


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["tune", "tests.test_tuning:target_of_two", "--arch", "sm_120"]
    assert cli.main(command) == 0
    assert "Block on sm_120: 2 launches" in capsys.readouterr().out.replace("block", "Block")
    assert cli.main([*command, "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["launches"]) == 2
    assert cli.main([*command[:2], "--arch", "hopper"]) == 1
    assert "--arch" in capsys.readouterr().err


def target_of_two() -> Any:
    return block, target().args


def test_without_an_architecture_there_is_nothing_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning.machine, "gpus", list)
    with pytest.raises(UnknownArchitecture, match="--arch"):
        tune(target(), [])


@pytest.mark.gpu
def test_on_a_gpu() -> None:
    """Without a compiler only what is in the kernel store can be measured."""
    found = tune(target(), [])
    compiles = not isinstance(tileiras.found(), MissingError)
    assert {row.status for row in found.rows} <= {"measured", "not measured"}
    if compiles:
        assert statuses(found) == ["measured", "measured"]
        assert statuses(tune(target(), [])) == ["stored", "stored"]
