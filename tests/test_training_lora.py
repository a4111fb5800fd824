"""LoRA through `peft`: adapters train in a frozen base, every site of the base rewritten.

The adapters are within the budget, the sites are the base model's, and the backward computes no
gradient that nobody asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import peft
import pytest
import torch
from torch import fx

from tests.training.backward import backward_graphs
from tests.training.loops import ADAM, Trial, assert_sites, batches, llama

pytestmark = pytest.mark.filterwarnings("ignore")

LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def adapted(targets: list[str], layers: int = 2) -> torch.nn.Module:
    """Adapters of rank 4, both halves random: an adapter of peft starts as zero."""
    settings = peft.LoraConfig(r=4, lora_alpha=8, target_modules=targets, init_lora_weights=False)
    torch.manual_seed(0)
    return peft.get_peft_model(llama(num_hidden_layers=layers), settings).train()


def trainable(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def loop(model: torch.nn.Module, call: Callable[..., Any]) -> None:
    optimiser = torch.optim.AdamW(trainable(model).values(), **ADAM)
    for batch in batches():
        call(**batch).loss.backward()
        optimiser.step()
        optimiser.zero_grad()


def reductions(graph: fx.Graph) -> set[tuple[int, ...]]:
    """The shapes, without ones, of what the products and sums of a graph give, transposed too."""
    shapes = set()
    for node in graph.nodes:
        if node.op == "call_function" and node.target in REDUCTIONS:
            shape = tuple(size for size in node.meta["val"].shape if size != 1)
            shapes |= {shape, shape[::-1]}
    return shapes


REDUCTIONS = (
    torch.ops.aten.mm.default,
    torch.ops.aten.bmm.default,
    torch.ops.aten.addmm.default,
    torch.ops.aten.sum.dim_IntList,
)


@pytest.mark.parametrize(
    "targets",
    (
        pytest.param(["q_proj", "v_proj"], id="attention", marks=pytest.mark.full),
        pytest.param(LINEAR, id="linear"),
    ),
)
def test_adapters_train_in_a_frozen_base(targets: list[str]) -> None:
    model = adapted(targets)
    frozen = {name: p.clone() for name, p in model.named_parameters() if not p.requires_grad}
    with backward_graphs() as graphs:
        trial = Trial(model)
        report = trial.check(loop)
    assert_sites(report)
    assert {site.module for site in report.fused if site.fusion == "silu_mul"} == {
        f"base_model.model.model.layers.{layer}.mlp" for layer in range(2)
    }
    for name, parameter in trial.ours.named_parameters():
        if name in frozen:
            assert parameter.grad is None
            assert torch.equal(parameter, frozen[name])
    (backward,) = graphs
    computed = reductions(backward.graph)
    wanted = {tuple(p.shape) for p in trainable(model).values()}
    assert wanted <= computed, "the gradients of the adapters are not found this way"
    unwanted = {tuple(p.shape) for p in frozen.values()} - wanted
    assert computed & unwanted == set()


def test_without_freezing_the_same_search_finds_the_gradients() -> None:
    """So that an empty result above means something."""
    model = adapted(["q_proj", "v_proj"], layers=1).requires_grad_(True)
    with backward_graphs() as graphs:
        Trial(model).check(loop)
    (backward,) = graphs
    everything = {tuple(p.shape) for p in model.parameters()}
    embedding = {tuple(model.get_input_embeddings().weight.shape)}
    assert everything - embedding <= reductions(backward.graph)
