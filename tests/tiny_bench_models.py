"""Models of `bench.models` that a test can afford."""

from __future__ import annotations

import dataclasses

import pytest

from bench import (
    model_cases,
)
from bench.model_cases import Case
from bench.model_configs import MODELS, Model

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
