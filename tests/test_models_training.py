"""Gradients of whole models with every site rewritten, within one budget for all of a model.

Each gradient is scaled by a power of two to about one, so that every parameter counts alike. (A
small parameter alone has too few elements for the largest of them to be a measure.)

Gradient checkpointing puts each layer into a body of its own, autocast casts between; bf16 models
accumulate their gradients in bf16, in eager as well.
"""

from __future__ import annotations

import contextlib
import copy
import math

import pytest
import torch

import tile_backend
from tests import expectations
from tests.models import named
from tests.models.inputs import training
from tests.models.run import REWRITTEN
from tile_backend.inductor import without_codegen
from tile_backend.lowering import oracle
from tile_backend.lowering.budget import within_budget

pytestmark = pytest.mark.filterwarnings("ignore")

QUICK = (
    ("qwen3", "float32", "checkpointing"),
    ("llama", "float32", "reentrant"),
    ("gemma3_text", "float32", "plain"),
    ("phi3", "float32", "autocast"),
    ("llama", "float32", "interpreted"),
)
MANNERS = ("plain", "checkpointing", "reentrant", "autocast", "interpreted")
CHECKPOINTED = {"checkpointing": False, "reentrant": True}
"""use_reentrant, by manner."""
INTERPRETED = {"tilegym.kernels": "interpret"}
"""Every site's kernel runs forward and backward, on the CPU."""
CASES = [
    pytest.param(*case, id="-".join(case), marks=() if case in QUICK else (pytest.mark.full,))
    for case in (
        *((name, "float32", manner) for name in named.CONFIGURATIONS for manner in MANNERS),
        *((name, "bfloat16", "plain") for name in named.CONFIGURATIONS),
    )
]


def gradients(
    model: torch.nn.Module, call: object, autocast: bool = False
) -> dict[str, torch.Tensor]:
    """Of the loss, by parameter; `call` is the model or its compiled form."""
    assert callable(call)
    region = torch.autocast("cpu", torch.bfloat16) if autocast else contextlib.nullcontext()
    model.zero_grad()
    with region:
        loss = call(**training(model)).loss
    loss.backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def scaled(gradients: dict[str, torch.Tensor], scales: dict[str, float]) -> torch.Tensor:
    """All of them, one after the other; nothing is rounded."""
    return torch.cat([(gradients[name] * scale).flatten() for name, scale in scales.items()])


def exact_gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    wide = oracle.widened(model)
    with oracle.Float64():
        return gradients(wide, wide)


@pytest.mark.parametrize(("name", "dtype", "manner"), CASES)
def test_gradients(name: str, dtype: str, manner: str) -> None:
    model = named.build(name, getattr(torch, dtype)).train()
    exact = exact_gradients(model)
    if manner in CHECKPOINTED:
        model.gradient_checkpointing_enable({"use_reentrant": CHECKPOINTED[manner]})
    autocast = manner == "autocast"
    eager = gradients(model, model, autocast)
    ours = copy.deepcopy(model)
    torch._dynamo.reset()
    with without_codegen():
        options = INTERPRETED if manner == "interpreted" else REWRITTEN
        compiled = torch.compile(ours, backend="tilegym", options=dict(options))
        actual = gradients(ours, compiled, autocast)
    assert actual.keys() == eager.keys() == exact.keys()
    scales = {n: 2.0 ** -math.frexp(g.abs().max().item())[1] for n, g in exact.items()}
    verdict = within_budget(*(scaled(found, scales) for found in (actual, exact, eager)))
    assert verdict, f"{name}: {verdict}"


@pytest.mark.parametrize("manner", ("plain", "checkpointing"))
def test_training_finds_what_inference_finds(manner: str) -> None:
    model = named.build("llama").train()
    if manner == "checkpointing":
        model.gradient_checkpointing_enable({"use_reentrant": False})
    torch._dynamo.reset()
    with without_codegen():
        compiled = torch.compile(model, backend="tilegym", options=dict(REWRITTEN))
        gradients(model, compiled)
    report = tile_backend.last_report()
    assert report is not None
    expected = expectations.load("llama")["float32 prefill model static"]["sites"]
    across = 1 if manner == "checkpointing" else 0
    assert report.counts["cross_entropy"] == 1, "the loss is all that inference lacks"
    assert sum(report.counts.values()) == sum(expected.values()) + 1, report.counts
    assert report.counts["rms_norm"] >= expected["rms_norm"] + across
