"""The models of `bench.models`: configurations, layers that fit, and the work of a step."""

from __future__ import annotations

import pytest

from bench import (
    model_cases,
    model_configs,
    model_work,
)
from bench.model_configs import LLAMA, MODELS, Model

BILLIONS = {
    "Llama-3.1-8B": 8.03,
    "Qwen3-8B": 8.19,
    "Gemma-3-4B": 3.88,
    "Mistral-7B": 7.25,
    "Phi-3-mini": 3.82,
    "GPT-OSS-20B": 20.91,
}
"""As their model cards say."""


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
