"""The named Transformers models: sites as expected, outputs within budget, one graph.

Every site is rewritten (kernels="always"), so that a wrong rewrite shows in the logits. `make test`
runs a chosen part of the matrix, `make test-full` all of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from tests import expectations
from tests.models import named
from tests.models.inputs import INPUTS
from tests.models.run import observe, ours, plain
from tests.models.scenario import ALL, CHOSEN, Scenario
from tile_backend.lowering import oracle
from tile_backend.lowering.budget import within_budget

pytestmark = pytest.mark.filterwarnings("ignore")


DYNAMIC = ("llama", "gemma3_text")
"""Of these `make test` may run any chosen scenario; of the others those that are not dynamic, since
dynamic sizes take five times as long.
"""
ON_A_CPU = ("llama", "gemma3_text", "gpt_oss")
"""Of these `make test` looks that a CPU leaves them to Inductor."""


def matrix() -> Iterator[Any]:
    for name in named.CONFIGURATIONS:
        for scenario in ALL:
            chosen = scenario in CHOSEN and (name in DYNAMIC or not scenario.dynamic)
            marks = () if chosen else (pytest.mark.full,)
            yield pytest.param(name, scenario, id=f"{name}-{scenario.name}", marks=marks)


def models() -> Iterator[Any]:
    for name in named.CONFIGURATIONS:
        yield pytest.param(name, marks=() if name in ON_A_CPU else (pytest.mark.full,))


def eager_logits(model: torch.nn.Module, scenario: Scenario) -> torch.Tensor:
    with torch.no_grad():
        logits = model(**INPUTS[scenario.call](model)).logits
    assert isinstance(logits, torch.Tensor)
    return logits


def exact_logits(model: torch.nn.Module, scenario: Scenario) -> torch.Tensor:
    wide = oracle.widened(model)
    with torch.no_grad(), oracle.Float64():
        logits = wide(**INPUTS[scenario.call](wide)).logits
    assert isinstance(logits, torch.Tensor)
    return logits


@pytest.mark.sampled(4)
@pytest.mark.parametrize(("name", "scenario"), matrix())
def test_sites_and_logits(name: str, scenario: Scenario) -> None:
    run, model = observe(name, scenario)
    expected = expectations.load(name)[scenario.name]
    assert {"graphs": run.graphs, "sites": run.counts} == expected
    verdict = within_budget(
        run.output.logits, exact_logits(model, scenario), eager_logits(model, scenario)
    )
    assert verdict, f"{name}, {scenario.name}: logits: {verdict}"


@pytest.mark.parametrize("name", models())
def test_left_to_inductor_on_a_cpu(name: str) -> None:
    """By default a CPU keeps the original nodes: the same bits as with plain Inductor."""
    model = named.build(name)
    run = ours(named.build(name), INPUTS["prefill"](model), options={})
    inductor, graphs = plain(named.build(name), INPUTS["prefill"](model))
    assert run.graphs == graphs == 1
    assert run.counts == expectations.load(name)["float32 prefill model static"]["sites"]
    assert torch.equal(run.output.logits, inductor.logits)


def test_a_two_layer_llama_has_the_sites_the_readme_promises() -> None:
    expected = {"rms_norm": 1, "add_rms_norm": 4, "silu_mul": 2, "rotary": 2, "attention": 2}
    sites = expectations.load("llama")["float32 prefill model static"]["sites"]
    assert sites == expected


@pytest.mark.parametrize("name", named.CONFIGURATIONS)
def test_every_scenario_has_an_expectation(name: str) -> None:
    assert sorted(expectations.load(name)) == sorted(scenario.name for scenario in ALL)
