"""The bench of models: configurations, work, checks, patched peers, rows; a GPU simulated."""

from __future__ import annotations

import dataclasses
import functools
import json
import subprocess
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import (
    fresh_process,
    gpu_timer,
    model_cases,
    model_check,
    model_compile,
    model_configs,
    model_peers,
    model_versions,
    model_work,
    models,
    page_models,
    pieces,
    result_file,
)
from bench.model_cases import Case
from bench.model_configs import LLAMA, MODELS, Model
from bench.model_table import report
from bench.versions import Found
from tile_backend import kernel_events, step_memory
from tile_backend.lowering.budget import Measured, Verdict

BILLIONS = {
    "Llama-3.1-8B": 8.03,
    "Qwen3-8B": 8.19,
    "Gemma-3-4B": 3.88,
    "Mistral-7B": 7.25,
    "Phi-3-mini": 3.82,
    "GPT-OSS-20B": 20.91,
}
"""As their model cards say."""


REDUCED = model_cases.reduced


def tiny(model: Model, phase: str) -> Case:
    """Two layers of 64, which a test can afford."""
    title = f"{model.name} {phase} {SIZES[phase]}"
    (case,) = (case for case in model_cases.sized(model, 2) if case.title == title)
    small = REDUCED(case)
    config = {**small.model.config, "hidden_size": 64, "intermediate_size": 64, "vocab_size": 96}
    config |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
    if config.get("sliding_window"):
        config["sliding_window"] = 8
    made = dataclasses.replace(small, model=dataclasses.replace(model, config=config))
    if phase == "decode":
        return dataclasses.replace(made, batch=3, filled=12, room=8)
    return dataclasses.replace(made, length=20)


SIZES = {"prefill": 2048, "decode": 8}
BOTH = [
    pytest.param(tiny(model, phase), id=f"{model.family}-{phase}")
    for model in MODELS
    for phase in SIZES
]


# --- which models ---------------------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_a_configuration_is_the_published_one(model: Model) -> None:
    """Transformers knows every name, and the whole model has the published parameters."""
    config = model.configuration(model.layers)
    for name, value in model.config.items():
        found = getattr(config, name)
        assert found == (list(value) if isinstance(value, tuple) else value), name
    once, each = model_cases.parameters(model)
    assert round((once + model.layers * each) / 1e9, 2) == BILLIONS[model.name]
    assert config.num_hidden_layers == model.layers


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_the_reduced_model_is_of_the_same_kind(model: Model) -> None:
    for case in model_cases.sized(model, model.layers):
        small = model_cases.reduced(case)
        made = small.model.made(small.layers, "meta")
        assert type(made).__name__ == type(model.made(1, "meta")).__name__
        assert sum(p.numel() for p in made.parameters()) < 20e6
        assert (small.phase, small.batch) == (case.phase, case.batch)


def test_layers_are_as_many_as_memory_allows() -> None:
    gib = 2**30
    by_title = {case.title: case for case in model_cases.gpu_cases(139 * gib)}
    assert len(by_title) == 36
    assert by_title["Llama-3.1-8B prefill 2048"].layers == 32
    assert 8 < by_title["GPT-OSS-20B prefill 2048"].layers < 24
    assert by_title["Llama-3.1-8B decode 64"].layers < 32
    small = {case.title: case.layers for case in model_cases.gpu_cases(40 * gib)}
    assert small["Llama-3.1-8B prefill 2048"] < 20
    assert small["GPT-OSS-20B prefill 2048"] == 3
    assert {case.layers for case in model_cases.gpu_cases(gib)} == {1}
    assert model_cases.with_layers(by_title["Qwen3-8B decode 8"], 5).layers == 5


# --- the work -------------------------------------------------------------------------------------


def test_flop_of_a_prefill_are_two_per_weight_and_token_and_those_of_attention() -> None:
    (case, *_) = model_cases.sized(LLAMA, 32)
    layers = 32 * model_cases.parameters(LLAMA)[1]
    attention = 4 * 32 * 32 * 128 * (2048 * 2049 // 2)
    assert model_work.flop(case) == 2 * 2048 * layers + attention + 2 * 128256 * 4096


def test_bytes_of_a_decode_step_are_weights_and_cache() -> None:
    (case,) = (c for c in model_cases.sized(LLAMA, 32) if c.title.endswith("decode 8"))
    weights = 32 * model_cases.parameters(LLAMA)[1] + 128256 * 4096
    assert model_work.bytes_read(case) == 2 * (weights + 32 * 2 * 8 * 8 * 128 * 4096)


def test_windows_and_experts_are_less_work() -> None:
    oss = {c.title.split("B ")[1]: c for c in model_cases.sized(model_configs.GPT_OSS, 24)}
    assert sum(model_work.windows(oss["decode 1"])) == 12 * (128 + 4097)
    used = [model_work.bytes_read(oss[f"decode {batch}"]) for batch in (1, 8)]
    experts = 2 * 24 * 32 * 2880 * 2880 * 3  # bytes, biases aside
    assert used[1] - used[0] > 0.8 * experts * 7 / 8
    gemma = model_cases.sized(model_configs.GEMMA, 6)[0]
    assert sorted(model_work.windows(gemma)) == [1024] * 5 + [2048]
    assert model_work.pairs_of(gemma, 1024) == sum(min(i + 1, 1024) for i in range(2048))


# --- checks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", BOTH)
def test_a_step_is_checked_from_the_cache_as_it_was_made(case: Case) -> None:
    with torch.no_grad():
        model, given = case.built("cpu"), case.arguments("cpu")
        verdict, words = model_check.judge(case, model, given)
        step = model_versions.step_of(case, model, given)
        step()
        step()
        logits = model_versions.judged_step(case, step, given)
        assert logits.shape == (case.batch, 1, 96)
        assert verdict(logits), str(verdict(logits))
        assert not verdict(logits * 1.01)
    assert words == f"{min(case.batch, 2)} of {case.batch} sequences, against float64"


def test_large_models_are_checked_in_float32() -> None:
    long = dataclasses.replace(tiny(LLAMA, "prefill"), length=4096, dtype=torch.bfloat16)
    assert model_check.exact_dtype(long, 10) is torch.float32
    short = dataclasses.replace(long, length=64)
    assert model_check.exact_dtype(short, 10) is torch.float64
    assert model_check.exact_dtype(short, 10**10) is torch.float32
    few = dataclasses.replace(tiny(LLAMA, "decode"), dtype=torch.bfloat16)
    with torch.no_grad():
        model, given = few.built("cpu"), few.arguments("cpu")
        exact = {
            wide: model_check.exact_logits(model, model_check.sliced(few, given, wide), wide)
            for wide in (torch.float32, torch.float64)
        }
    difference = exact[torch.float32].double() - exact[torch.float64]
    assert difference.abs().max() < 1e-4 * exact[torch.float64].abs().max()


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


# --- patched peers --------------------------------------------------------------------------------


def test_a_library_is_called_for_the_models_that_it_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[Any] = []
    package = types.SimpleNamespace(
        apply_tilegym_kernel_to_gemma3=lambda **given: called.append(("gemma3", given)),
    )
    monkeypatch.setitem(sys.modules, "tilegym.transformers", package)
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers", None)
    by_family = {model.family: tiny(model, "prefill") for model in MODELS}
    model_peers.patch_tilegym(by_family["gemma3_text"])
    assert called == [("gemma3", {"use_cutile": True})]
    with pytest.raises(model_peers.NotThereError, match="tilegym has no patches for qwen3"):
        model_peers.patch_tilegym(by_family["qwen3"])
    with pytest.raises(model_peers.NotThereError, match="liger cannot be used: import of"):
        model_peers.patch_liger(by_family["llama"])


@pytest.mark.parametrize("factor", (1.0, 1.05), ids=("right", "wrong"))
def test_a_patched_model_has_the_same_weights_and_a_control(
    factor: float, graphs_only: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.models.llama import modeling_llama

    class Patched(modeling_llama.LlamaRMSNorm):
        def __init__(self, *given: Any, **more: Any) -> None:
            torch.randn(3)  # other random numbers follow
            super().__init__(*given, **more)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) * factor

    def patch(case: Case) -> None:
        monkeypatch.setattr(modeling_llama, "LlamaRMSNorm", Patched)

    peer = (patch, model_peers.as_it_is, model_versions.eager)
    monkeypatch.setitem(model_peers.PEERS, "TileGym patched", peer)
    inductor = functools.partial(model_versions.compiled, backend="eager")
    monkeypatch.setitem(model_versions.EVERYWHERE, "inductor", inductor)
    found = model_peers.measured(tiny(LLAMA, "decode"), "TileGym patched", 3, "cpu")
    assert found["correct"] == (factor == 1.0), found["verdict"]
    assert len(found["seconds"]) == len(found["control"]) == 3
    json.dumps(found)
    verdict = model_peers.verdict_of(found)
    assert bool(verdict) == (factor == 1.0)
    assert verdict or "OVER BUDGET" in str(verdict)


def test_why_a_peer_did_not_run_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tilegym.transformers", None)
    inductor = functools.partial(model_versions.compiled, backend="eager")
    monkeypatch.setitem(model_versions.EVERYWHERE, "inductor", inductor)
    found = model_peers.measured(tiny(LLAMA, "prefill"), "TileGym patched", 2, "cpu")
    assert found["not_run"].startswith("NotThereError: tilegym cannot be used")


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
    assert "HF kernels of Llama-3.1-8B" in text


def test_a_version_that_is_wrong_has_no_ratio() -> None:
    good, bad = Verdict((Measured(1.0, 2.0),)), Verdict((Measured(3.0, 2.0),))
    times = {"inductor": [2.0, 2.0], "tilegym": [1.0, 1.0], "again": [1.0, 1.0]}
    found = Found(times=times, verdicts={"inductor": good, "tilegym": bad})
    more = {"checked": "", "kernels": {}, "compiled": {}}
    row = models.results(found, {}, more, 1)
    assert row["speedup"] == {}
    assert set(row["void"]) == {"tilegym", "again"}
    assert set(row["tokens_per_s"]) == {"inductor"}
