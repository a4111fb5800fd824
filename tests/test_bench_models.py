"""The bench of models: its rows without a GPU, and with a simulated one."""

from __future__ import annotations

import dataclasses
import functools
import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import (
    fresh_process,
    gpu_timer,
    model_cases,
    model_compile,
    model_versions,
    model_work,
    models,
    page_models,
    pieces,
    result_file,
)
from bench.model_cases import Case
from bench.model_configs import LLAMA
from bench.model_table import report
from bench.versions import Found
from tests.tiny_bench_models import SIZES, tiny
from tile_backend import kernel_events, step_memory
from tile_backend.lowering.budget import Measured, Verdict

# --- without a GPU --------------------------------------------------------------------------------


@pytest.fixture
def cheap(monkeypatch: pytest.MonkeyPatch, graphs_only: None, tmp_path: Path) -> list[Any]:
    """No code is generated and no process started; what would have been asked of one."""
    asked: list[Any] = []

    def call(*arguments: Any, cache: str) -> float:
        asked.append(arguments)
        assert " " not in cache
        if arguments[-2] == "tilegym":
            raise subprocess.CalledProcessError(1, "python")
        return 12.5

    def smaller(case: Case) -> Case:
        return dataclasses.replace(tiny(case.model, case.phase), batch=case.batch)

    inductor = functools.partial(model_versions.compiled, backend="eager")
    monkeypatch.setattr(fresh_process, "call", call)
    monkeypatch.setitem(model_versions.EVERYWHERE, "inductor", inductor)
    monkeypatch.setattr(model_cases, "reduced", smaller)
    monkeypatch.setattr(model_cases, "MODELS", (LLAMA,))
    counts = {"kernels": 7, "moved": 10**9, "sites": 3, "launches": 3}
    counted = {"inductor": counts | {"moved": 2 * 10**9}, "tilegym": counts}
    monkeypatch.setattr(model_compile, "counted", lambda case: counted)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(result_file, "RESULTS", tmp_path)
    monkeypatch.setattr(result_file, "ROOT", tmp_path)
    monkeypatch.setattr(result_file, "commit", lambda: "c" * 40)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))  # the bench sets these
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    return asked


def test_rows_without_a_gpu(cheap: list[Any], tmp_path: Path) -> None:
    record = models.run(["--only", "*prefill*", "--rounds", "2"])
    first, second, third = record.rows
    assert first["counted"]["tilegym"]["moved"] == 10**9
    assert set(first["time_us"]) == {"eager", "inductor", "tilegym", "again"}
    assert set(first["speedup"]) == {"eager", "tilegym", "again"}
    assert all(first["correct"].values())
    assert first["compiled"]["tilegym"] == {"graphs": 1, "breaks": []}
    assert first["compile_s"]["inductor"] == {"cold": 12.5, "warm": 12.5}
    assert "CalledProcessError" in first["compile_s"]["tilegym"]["failed"]
    assert first["not_run"]["Liger patched"] == "needs a CUDA device"
    assert first["not_measured"].keys() == models.ON_A_CPU.keys()
    assert first["reduced"]["length"] == 20
    assert "time_us" not in second
    assert second["not_measured"]["time_us"] == "without a GPU at the smallest size only"
    text = report(record.rows)
    assert text.splitlines()[1].split()[:4] == ["Llama-3.1-8B", "prefill", "2048", "4/32"]
    saved = json.loads((tmp_path / "models.json").read_text())
    assert [row["case"] for row in saved["rows"]] == [r["case"] for r in (first, second, third)]
    text, drawn = page_models.section(saved)
    assert "On a GPU: **not measured**." in text
    assert "| Llama-3.1-8B prefill 8192 | 4 of 32 | 3 | 3 | 7, 7 | 2, 1 | 0.5 |" in text
    assert list(drawn) == ["models-bytes"]
    assert not models.run(["--only", "*prefill*", "--resume"]).rows


def test_no_such_case_is_an_error(cheap: list[Any]) -> None:
    with pytest.raises(SystemExit, match="no case or model is called other"):
        models.run(["--only", "other"])


def test_code_is_counted_at_full_size_without_its_memory() -> None:
    (case, *_) = model_cases.sized(LLAMA, 1)
    found = model_compile.counted(case)
    assert found["tilegym"]["sites"] == found["tilegym"]["launches"] > 4
    assert found["inductor"]["launches"] == 0
    weights = 2 * (model_cases.parameters(LLAMA)[1] + 128256 * 4096)
    assert weights < found["tilegym"]["moved"] < found["inductor"]["moved"]


def test_what_cannot_be_counted_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(*_: Any) -> Any:
        raise model_compile.code_counts.NotWholeError("the graph ended early: print")

    monkeypatch.setattr(model_compile.code_counts, "counts", breaks)
    found = model_compile.counted(tiny(LLAMA, "prefill"))
    assert found["inductor"] == {"not_counted": "NotWholeError: the graph ended early: print"}


# --- a GPU, simulated -----------------------------------------------------------------------------


def told(**more: Any) -> dict[str, Any]:
    """By a process of a peer."""
    facts = {"seconds": [0.002] * 3, "control": [0.003] * 3, "graphs": 15, "breaks": ["b"] * 14}
    return facts | {"peak_mib": 9.0, "kernels": 40, "correct": True, "budget_used": 0.5} | more


@pytest.fixture
def simulated(cheap: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors stay on the CPU; a clock that is told how long each version takes."""
    micros = {"inductor": 2000.0, "inductor reduce-overhead": 1000.0, "eager": 4000.0}
    micros |= {"tilegym": 1000.0, "tilegym reduce-overhead": 800.0, "again": 1000.0}
    answers: Mapping[str, Any] = {
        "TileGym patched": told(),
        "Liger patched": told(correct=False, verdict="OVER BUDGET by far"),
        "HF kernels": {"not_run": "ValueError: Kernels are not available"},
    }

    def call(module: str, function: str, *given: Any, cache: str) -> Any:
        return answers[given[2]] if function == "peer" else 9.0

    eager = functools.partial(model_versions.compiled, backend="eager")
    monkeypatch.setattr(fresh_process, "call", call)
    monkeypatch.setattr(model_versions, "ON_A_GPU", dict.fromkeys(model_versions.ON_A_GPU, eager))
    monkeypatch.setattr(
        models.versions,
        "time_on_host",
        lambda steps, rounds: {n: [micros.get(n, 3000.0)] * rounds for n in (*steps, "again")},
    )
    for name in ("built", "arguments"):
        method = getattr(Case, name)
        monkeypatch.setattr(Case, name, lambda case, device, method=method: method(case, "cpu"))
    small = [tiny(LLAMA, phase) for phase in SIZES]
    monkeypatch.setattr(models, "chosen", lambda *_: small)
    monkeypatch.setattr(step_memory, "gpu_peak_mib", lambda step: 8.0)
    monkeypatch.setattr(kernel_events, "launched", lambda step: 30)
    monkeypatch.setattr(gpu_timer, "ceilings", lambda: {"bytes_per_us": 4e6, "flop_per_us": 8e8})
    monkeypatch.setattr(pieces, "device", lambda: "cuda")
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(result_file, "machine", lambda: {"gpu": "Simulated H200", "cores": 1})


def test_rows_of_a_gpu(simulated: None, tmp_path: Path) -> None:
    prefill, decode = models.run(["--rounds", "3"]).rows
    assert prefill["speedup"]["tilegym"]["median"] == 2
    assert prefill["speedup"]["TileGym patched"]["median"] == 1.5  # to its own control
    assert prefill["speedup_same_mode"]["tilegym reduce-overhead"]["median"] == 1.25
    assert "OVER BUDGET by far" in prefill["void"]["Liger patched"]
    assert "Liger patched" not in prefill["speedup"]
    assert prefill["not_run"] == {"HF kernels": "ValueError: Kernels are not available"}
    assert prefill["controls"]["TileGym patched"]["median"] == 0.003
    assert prefill["kernels"]["TileGym patched"] == 40
    assert len(prefill["compiled"]["TileGym patched"]["breaks"]) == 14
    assert prefill["peak_mib"]["tilegym"] == 8.0
    flop = model_work.flop(tiny(LLAMA, "prefill"))
    assert prefill["share_of_ceiling"]["tilegym"] == pytest.approx(flop / 1000 / 8e8, rel=1e-3)
    assert prefill["tokens_per_s"]["tilegym"] == 20e3
    assert decode["tokens_per_s"]["tilegym"] == 3e3
    read = model_work.bytes_read(tiny(LLAMA, "decode"))
    assert decode["gb_per_s"]["tilegym"] == pytest.approx(read / 1e-3 / 1e9, rel=1e-3)
    assert decode["not_measured"] == {"compile_s": "as at the smallest size: the same graph"}
    saved = json.loads((tmp_path / "models.json").read_text())
    text, drawn = page_models.section(saved)
    assert "### On Simulated H200" in text
    assert list(drawn) == ["models-simulated-h200"]
    assert "HF kernels of every case: ValueError: Kernels are not available" in text


def test_a_case_that_cannot_be_checked_is_a_row_with_the_reason(
    simulated: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(models.model_check, "judge", fails)
    rows = models.run([]).rows
    assert rows[0]["not_run"] == {"every version": "OutOfMemoryError: CUDA out of memory"}
    text, _ = page_models.section(json.loads((tmp_path / "models.json").read_text()))
    assert "every version of every case: OutOfMemoryError: CUDA out of memory" in text


def test_a_version_that_is_wrong_has_no_ratio() -> None:
    good, bad = Verdict((Measured(1.0, 2.0),)), Verdict((Measured(3.0, 2.0),))
    times = {"inductor": [2.0, 2.0], "tilegym": [1.0, 1.0], "again": [1.0, 1.0]}
    found = Found(times=times, verdicts={"inductor": good, "tilegym": bad})
    more = {"checked": "", "kernels": {}, "compiled": {}}
    row = models.results(found, {}, more, 1)
    assert row["speedup"] == {}
    assert set(row["void"]) == {"tilegym", "again"}
    assert set(row["tokens_per_s"]) == {"inductor"}
