"""Tiny models keep what makes an architecture special; the types with an exception run."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tile_backend import tiny_model
from tile_backend.errors import BadTarget
from tile_backend.tiny_exceptions import SPECIAL
from tile_backend.tiny_shrink import chosen_layers, merged, shrunk_rope
from tile_backend.tiny_sizes import HEAD_DIM, HEADS, VOCABULARY, WIDTH

pytestmark = pytest.mark.filterwarnings("ignore")


def test_one_layer_of_each_kind_is_kept() -> None:
    fields = {"layer_types": ["linear"] * 3 + ["full"] + ["linear"] * 3 + ["full"]}
    assert chosen_layers(fields, 8) == [0, 3]
    assert chosen_layers({}, 8) == [0, 1]


@pytest.mark.parametrize(
    ("given", "small"),
    (
        ({"mrope_section": [16, 24, 24]}, {"mrope_section": [2, 3, 3]}),
        ({"long_factor": list(range(48))}, {"long_factor": list(range(8))}),
        (
            {"full": {"short_factor": [1.0] * 64, "partial_rotary_factor": 0.5}},
            {"full": {"short_factor": [1.0] * 4, "partial_rotary_factor": 0.5}},
        ),
        (None, None),
    ),
)
def test_rope_parameters_fit_the_smaller_head(given: Any, small: Any) -> None:
    assert shrunk_rope(given, HEAD_DIM) == small


def test_changes_reach_into_nested_configurations() -> None:
    base = {"text_config": {"a": 1, "b": 2}, "c": 3}
    changes = {"text_config": {"b": 4}, "c": {"d": 5}}
    assert merged(base, changes) == {"text_config": {"a": 1, "b": 4}, "c": {"d": 5}}


def test_a_tiny_configuration_is_small_and_has_its_own_kinds_of_layers() -> None:
    config = tiny_model.tiny_config("gemma3_text")
    assert (config.hidden_size, config.num_attention_heads) == (WIDTH, HEADS)
    assert config.vocab_size == VOCABULARY
    assert config.layer_types == ["sliding_attention", "full_attention"]


@pytest.mark.parametrize("model_type", sorted(SPECIAL.keys() & set(tiny_model.model_types())))
def test_a_type_with_an_exception_runs(model_type: str) -> None:
    model = tiny_model.tiny_model(model_type)
    with torch.no_grad():
        logits = model(input_ids=tiny_model.tokens(2, 24), use_cache=False).logits
    assert logits.shape == (2, 24, VOCABULARY)
    assert logits.isfinite().all()


def test_a_type_that_stays_large_is_refused_with_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiny_model, "LARGEST", 1000)
    with pytest.raises(BadTarget, match="still has over 1000 parameters. Write a config.json"):
        tiny_model.tiny_model("llama")
