"""The bench of fusions: shapes, versions with inputs of their own, rows, text; a GPU simulated."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import (
    attention,
    fusion_cases,
    fusion_versions,
    fusions,
    gpu_timer,
    pieces,
    result_file,
)
from bench.fusion_cases import Case
from bench.fusion_table import report
from bench.versions import Found, UnavailableError
from tile_backend import kernel_events, step_memory
from tile_backend.lowering.budget import Measured, Verdict
from tile_backend.patterns import all_fusions

GPU = {case.title: case for case in fusion_cases.cases()}
NORM = fusion_cases.norm("rms_norm", 4, 16, torch.float32)
TINY = Case("rms_norm", "reduced for a CPU", NORM)
LOSS = Case("linear_cross_entropy", "reduced for a CPU", fusion_cases.loss(6, 20, 8, torch.float32))


# --- shapes ---------------------------------------------------------------------------------------


def test_every_fusion_is_measured_at_the_shapes_of_its_declaration() -> None:
    measured = {(case.fusion, case.origin) for case in GPU.values()}
    for fusion in all_fusions():
        if fusion.name == "attention":  # at shapes of bench.attention
            ((shape,),) = ((shape,) for shape in fusion.bench)
            case = next(c for c in fusion_cases.attention() if c.title == "llama causal 1x8192")
            assert [tuple(x.shape) for x in case.inputs("meta")[:3]] == list(shape.shapes.values())
            continue
        for shape in fusion.bench:
            assert (fusion.name, f"declaration: {shape.name}") in measured


def test_peers_and_models_have_their_shapes() -> None:
    assert GPU["rms_norm 4096x16384 float16 forward"].origin == "TileGym"
    assert GPU["silu_mul 1024x14336 bfloat16 forward and backward"].origin == "Liger"
    assert GPU["gelu_mul 64x10240 bfloat16 forward"].origin == "Gemma-3-4B"
    assert GPU["rotary 1x64x8192x64 bfloat16 forward"].origin == "GPT-OSS-20B"
    origins = {case.origin.split(":")[0] for case in GPU.values()}
    assert origins >= {"declaration", "TileGym", "Liger", "Llama-3.1-8B", "Phi-3-mini"}


def test_a_fusion_without_a_program_here_is_measured_by_its_first_spelling() -> None:
    (fusion,) = (f for f in all_fusions() if f.name == "silu_mul")
    unknown = dataclasses.replace(fusion, name="unknown", holes={"gate": 0, "up": 0})
    made = fusion_cases.of_declaration(unknown, {"gate": (2, 8), "up": (2, 8)})
    assert made.title == "unknown 2x8 bfloat16"
    gate, up = made.inputs("cpu")
    assert torch.equal(made.function(gate, up), torch.nn.functional.silu(gate) * up)


def test_bytes_and_flop_are_the_least_there_is() -> None:
    assert TINY.bytes == 4 * (4 * 16 + 16 + 4 * 16)
    train = dataclasses.replace(TINY, train=True)
    assert train.bytes == 2 * TINY.bytes + 4 * (4 * 16 + 16)
    assert LOSS.flop == 2 * 6 * 20 * 8
    assert dataclasses.replace(LOSS, train=True).flop == 3 * LOSS.flop
    assert TINY.flop == 0


@pytest.mark.parametrize("case", fusion_cases.cpu_cases(), ids=lambda case: case.title)
def test_every_case_of_a_cpu_has_inputs(case: Case) -> None:
    inputs = case.program.inputs("meta")
    assert [tuple(x.shape) for x in inputs] == list(case.program.shapes.values())
    assert case.bytes > 0


# --- versions -------------------------------------------------------------------------------------


def wrong(case: Case) -> Any:
    return lambda *given: case.program.function(*given) * 1.5


def overwrites(case: Case) -> Any:
    def run(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        result = case.program.function(x, weight)
        x.zero_()
        return result

    return run


def unavailable(case: Case) -> Any:
    raise UnavailableError("not installed")


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    eager = fusion_versions.eager
    made = {"overwrites": overwrites, "tilegym": eager, "wrong": wrong, "Liger": unavailable}
    monkeypatch.setattr(fusion_versions, "makers", lambda device: made)
    monkeypatch.setattr(result_file, "RESULTS", tmp_path)
    monkeypatch.setattr(result_file, "ROOT", tmp_path)
    monkeypatch.setattr(result_file, "commit", lambda: "c" * 40)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))  # the bench sets these
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")


def test_a_wrong_version_is_void_and_one_that_writes_disturbs_nobody(planted: None) -> None:
    found, _ = fusions.measure(TINY, "cpu", 3)
    row = fusions.row(TINY, found, {}, {})
    assert row["correct"] == {"overwrites": True, "tilegym": True, "wrong": False, "again": True}
    assert "OVER BUDGET" in row["void"]["wrong"]
    assert set(row["over_tilegym"]) == {"overwrites", "again"}
    assert set(row["gb_per_s"]) == {"overwrites", "tilegym", "again"}
    assert row["not_run"]["Liger"] == "UnavailableError: not installed"
    assert row["not_run"]["TileGym"] == "needs a CUDA device"
    assert row["not_measured"] == fusions.ON_A_CPU
    assert "share_of_ceiling" not in row


def test_gradients_are_judged_as_well() -> None:
    case = dataclasses.replace(TINY, train=True)
    judge = fusion_versions.judge(case, "cpu")
    inputs = case.inputs("cpu")
    slopes = fusion_versions.slopes_of(case, inputs)
    good = fusion_versions.outcome(case, case.program.function, inputs, slopes)
    assert len(good) == 3
    assert judge(good)
    for index in range(3):
        spoilt = [x + 1 if i == index else x for i, x in enumerate(good)]
        assert not judge(spoilt)


def test_the_compiled_versions_are_right(graphs_only: None) -> None:
    makers = fusion_versions.makers("cpu")
    makers["inductor"] = functools.partial(fusion_versions.compiled, backend="eager")
    for case in (TINY, LOSS):
        judge = fusion_versions.judge(case, "cpu")
        for name, make in makers.items():
            if name == "torch" and case is LOSS:
                with pytest.raises(UnavailableError, match="torch has no op for this fusion"):
                    make(case)
                continue
            assert judge(fusion_versions.outcome(case, make(case), case.inputs("cpu"), [])), name


# --- a GPU, simulated -----------------------------------------------------------------------------


CEILING = {"bytes_per_us": 4.0, "flop_per_us": 8.0}


@pytest.fixture
def simulated(planted: None, monkeypatch: pytest.MonkeyPatch) -> Mapping[str, float]:
    """Tensors stay on the CPU; a clock that is told how long each version takes."""
    micros = {"tilegym": 100.0, "overwrites": 150.0, "wrong": 10.0}
    cpu = {n: functools.partial(m, TINY) for n, m in fusion_versions.makers("cpu").items()}
    assert cpu

    def time_replays(replays: Mapping[str, Any], rounds: int) -> dict[str, list[float]]:
        return {n: [micros[n.replace("again", "tilegym")]] * rounds for n in replays}

    inputs: Callable[[Case, str], list[torch.Tensor]] = Case.inputs
    judge = fusion_versions.judge
    monkeypatch.setattr(Case, "inputs", lambda case, device: inputs(case, "cpu"))
    monkeypatch.setattr(fusion_versions, "judge", lambda case, device: judge(case, "cpu"))
    monkeypatch.setattr(gpu_timer, "captured", lambda step: step)
    monkeypatch.setattr(gpu_timer, "time_replays", time_replays)
    monkeypatch.setattr(gpu_timer, "ceilings", lambda: CEILING)
    monkeypatch.setattr(step_memory, "gpu_peak_mib", lambda step: 8.0)
    monkeypatch.setattr(kernel_events, "launched", lambda step: 3)
    monkeypatch.setattr(pieces, "device", lambda: "cuda")
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(result_file, "machine", lambda: {"gpu": "Simulated", "processor": "x"})
    monkeypatch.setattr(fusion_cases, "cases", lambda: [TINY])
    monkeypatch.setattr(fusion_cases, "attention", list)
    return micros


def test_a_row_of_a_gpu(simulated: Mapping[str, float], tmp_path: Path) -> None:
    record = fusions.run(["--rounds", "4"])
    (row,) = record.rows
    assert row["over_tilegym"]["overwrites"]["median"] == 1.5
    assert row["gb_per_s"]["tilegym"] == pytest.approx(TINY.bytes / 100e-6 / 1e9, rel=1e-3)
    assert row["share_of_ceiling"]["tilegym"] == pytest.approx(TINY.bytes / 400, rel=1e-3)
    assert "wrong" not in row["share_of_ceiling"]
    assert row["peak_mib"] == {"tilegym": 8.0, "overwrites": 8.0, "wrong": 8.0}
    assert row["kernels"] == {"tilegym": 3, "overwrites": 3, "wrong": 3}
    assert row["not_measured"] == {}
    saved = json.loads((tmp_path / "fusions.json").read_text())
    assert saved["rows"][0]["device"] == "Simulated"
    assert saved["runs"][0]["ceilings"] == CEILING
    assert fusions.problems(record.rows) == []
    assert not fusions.run(["--resume"]).rows


def test_a_failure_keeps_what_was_measured_before(
    simulated: Mapping[str, float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = dataclasses.replace(TINY, fusion="broken", train=True)
    monkeypatch.setattr(fusion_cases, "cases", lambda: [TINY, broken])
    measure = fusions.measure

    def fails(case: Case, *given: Any) -> Any:
        if case is broken:
            raise KeyError("the GPU is gone")
        return measure(case, *given)

    monkeypatch.setattr(fusions, "measure", fails)
    with pytest.raises(KeyError, match="the GPU is gone"):
        fusions.run([])
    saved = json.loads((tmp_path / "fusions.json").read_text())
    assert [row["case"] for row in saved["rows"]] == [TINY.title]


def test_a_case_that_cannot_be_checked_is_a_row_with_the_reason(
    simulated: Mapping[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(fusions, "measure", fails)
    (row,) = fusions.run([]).rows
    assert row["not_run"] == {"every version": "OutOfMemoryError: CUDA out of memory"}
    assert row["time_us"] == row["over_tilegym"] == {}


def test_what_tilegym_got_wrong_is_a_problem() -> None:
    good, bad = Verdict((Measured(1.0, 2.0),)), Verdict((Measured(3.0, 2.0),))
    times = {"tilegym": [1.0, 1.0], "inductor": [2.0, 2.0]}
    found = Found(times=times, verdicts={"tilegym": bad, "inductor": good})
    row = fusions.row(TINY, found, {}, {})
    assert fusions.problems([row]) == [f"{TINY.title}: {bad}"]
    assert f"void: tilegym of {TINY.title}: {bad}" in report([row])


def test_attention_has_the_columns_of_this_bench() -> None:
    (case, *_) = fusion_cases.attention()
    good = Verdict((Measured(1.0, 2.0),))
    found = Found(times={"tilegym": [1.0, 1.0]}, verdicts={"tilegym": good})
    ceiling = {"bytes_per_us": 1.0, "flop_per_us": 1.0}
    row = fusions.attention_row(case, found, ceiling)
    assert (row["fusion"], row["bytes"], row["step"]) == ("attention", case.bytes, "forward")
    assert row["share_of_ceiling"]["tilegym"] == attention.significant(case.flop)
    assert case.title in report([row])


def test_no_such_case_is_an_error(planted: None) -> None:
    with pytest.raises(SystemExit, match="no case, fusion or origin is called other"):
        fusions.run(["--only", "other"])
