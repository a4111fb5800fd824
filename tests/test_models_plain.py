"""Plain-PyTorch models in the styles of people who do not use Transformers: sites and outputs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from tests import expectations
from tests.models import plain
from tests.models.plain_run import SCENARIOS, PlainScenario, observe_plain
from tile_backend.lowering import oracle
from tile_backend.lowering.budget import within_budget

pytestmark = pytest.mark.filterwarnings("ignore")


def scenarios() -> Iterator[Any]:
    """`make test` runs dynamic shapes in float32 only."""
    for scenario in SCENARIOS:
        both = scenario.dynamic and scenario.dtype != "float32"
        marks = (pytest.mark.full,) if both else ()
        yield pytest.param(scenario, id=scenario.name, marks=marks)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("scenario", scenarios())
@pytest.mark.parametrize("name", plain.NAMES)
def test_sites_and_outputs(name: str, scenario: PlainScenario) -> None:
    run, model, inputs = observe_plain(name, scenario)
    expected = expectations.load(name)[scenario.name]
    assert {"graphs": run.graphs, "sites": run.counts} == expected
    with torch.no_grad():
        eager, exact = model(*inputs), oracle.float64(oracle.widened(model))(*inputs)
    verdict = within_budget(run.output, exact, eager)
    assert verdict, f"{name}, {scenario.name}: {verdict}"


WHAT_IS_THERE = {
    "complex_rotary": {"norms": 5, "gates": 2, "rotary": 4, "attention": 2},
    "gpt_fast": {"norms": 5, "gates": 2, "rotary": 4, "attention": 2},
    "nano_gpt": {"norms": 5, "gates": 0, "rotary": 0, "attention": 2},
    "hand_written": {"norms": 6, "gates": 3, "rotary": 3, "attention": 3},
    "diffusion_block": {"norms": 9, "gates": 0, "rotary": 0, "attention": 2},
    "t5_style": {"norms": 5, "gates": 2, "rotary": 0, "attention": 2},
}
"""Counted by reading the models, where each call of a rotation is one (complex_rotary and gpt_fast
call theirs for q and again for k). The other models hold forms that are another function.

einsum_vit and parallel_gpt_j clamp the length of a vector instead of adding an epsilon to its mean
square, and parallel_gpt_j subtracts a detached maximum before its softmax.
"""

PARTS = {
    "norms": ("rms_norm", "add_rms_norm", "layer_norm", "add_layer_norm"),
    "gates": ("silu_mul", "gelu_mul"),
    "rotary": ("rotary",),
    "attention": ("attention",),
}


@pytest.mark.parametrize("name", WHAT_IS_THERE)
def test_everything_is_found(name: str) -> None:
    sites = expectations.load(name)["float32 static"]["sites"]
    found = {
        part: sum(sites.get(fusion, 0) for fusion in fusions) for part, fusions in PARTS.items()
    }
    assert found == WHAT_IS_THERE[name]
