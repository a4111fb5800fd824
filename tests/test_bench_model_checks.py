"""Versions of a model are checked from equal caches; patched ones have its weights."""

from __future__ import annotations

import dataclasses
import functools
import json
import sys
import types
from typing import Any

import pytest
import torch

from bench import (
    model_check,
    model_peers,
    model_versions,
)
from bench.model_cases import Case
from bench.model_configs import LLAMA, MODELS
from tests.tiny_bench_models import BOTH, tiny


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
