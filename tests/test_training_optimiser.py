"""Optimisers and what surrounds them: AdamW in its variants, accumulation, clipping, scaled losses.

Three steps each on a Llama with every site rewritten: the parameters are within the budget.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch

import tile_backend
from tests.models.run import REWRITTEN
from tests.training.loops import ADAM, Loop, Trial, assert_sites, batches, flat, llama
from tile_backend.inductor import without_codegen

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def trial() -> Trial:
    return Trial(llama())


def adamw(**variant: bool) -> Loop:
    def loop(model: torch.nn.Module, call: Callable[..., Any]) -> None:
        optimiser = torch.optim.AdamW(model.parameters(), **ADAM, **variant)
        for batch in batches():
            call(**batch).loss.backward()
            optimiser.step()
            optimiser.zero_grad()

    return loop


def accumulation(model: torch.nn.Module, call: Callable[..., Any]) -> None:
    optimiser = torch.optim.AdamW(model.parameters(), **ADAM)
    for index, batch in enumerate(batches(steps=6)):
        (call(**batch).loss / 2).backward()
        if index % 2:
            optimiser.step()
            optimiser.zero_grad()


def clipping(model: torch.nn.Module, call: Callable[..., Any]) -> None:
    optimiser = torch.optim.AdamW(model.parameters(), **ADAM)
    for batch in batches():
        call(**batch).loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=0.5)
        assert norm > 0.5, "nothing was clipped"
        optimiser.step()
        optimiser.zero_grad()


def momentum(model: torch.nn.Module, call: Callable[..., Any]) -> None:
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    for batch in batches():
        call(**batch).loss.backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=False)


LOOPS = {
    "adamw": adamw(),
    "foreach": adamw(foreach=True),
    "fused": adamw(fused=True),
    "accumulation": accumulation,
    "clipping": clipping,
    "momentum": momentum,
}


@pytest.mark.parametrize("loop", LOOPS.values(), ids=LOOPS)
def test_optimisers(loop: Loop, trial: Trial) -> None:
    report = trial.check(loop)
    assert_sites(report)
    assert len(report.graphs) == 1, "no step compiles again"


def test_tied_embeddings() -> None:
    """One parameter read by the embedding and the head: both gradients arrive, and it stays one."""
    model = llama(tie_word_embeddings=True)
    assert model.lm_head.weight is model.model.embed_tokens.weight

    def loop(model: torch.nn.Module, call: Callable[..., Any]) -> None:
        adamw()(model, call)
        assert model.lm_head.weight is model.model.embed_tokens.weight

    assert_sites(Trial(model).check(loop))


def scaled(scale: float, scales: list[float] | None = None) -> Loop:
    """torch.amp: float16 inside autocast, a loss scaled by a power of two."""

    def loop(model: torch.nn.Module, call: Callable[..., Any]) -> None:
        exact = next(model.parameters()).dtype == torch.float64  # whose gradients need no scale
        optimiser = torch.optim.AdamW(model.parameters(), **ADAM)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale, enabled=not exact)
        for batch in batches():
            with torch.autocast("cpu", torch.float16):
                loss = call(**batch).loss
            scaler.scale(loss).backward()
            scaler.unscale_(optimiser)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            scaler.step(optimiser)
            scaler.update()
            optimiser.zero_grad()
            if scales is not None:
                scales.append(scaler.get_scale())

    return loop


def test_grad_scaler() -> None:
    report = Trial(llama(num_hidden_layers=1)).check(scaled(2.0**10))
    assert report.counts["attention"] == report.counts["silu_mul"] == 1


def test_a_scale_that_overflows_skips_the_step_as_in_eager() -> None:
    eager = llama(num_hidden_layers=1)
    ours, before = copy.deepcopy(eager), flat(eager)
    scales: dict[str, list[float]] = {"eager": [], "ours": []}
    scaled(2.0**40, scales["eager"])(eager, eager)
    with without_codegen():
        compiled = torch.compile(ours, backend="tilegym", options=dict(REWRITTEN))
        scaled(2.0**40, scales["ours"])(ours, compiled)
    assert scales["ours"] == scales["eager"] == [2.0**39, 2.0**38, 2.0**37]
    assert torch.equal(flat(ours), before)


def test_a_compiled_optimiser_step() -> None:
    """A callable of its own: its graphs have no site and are not in the model's report."""
    reports: list[tile_backend.Report | None] = []

    def loop(model: torch.nn.Module, call: Callable[..., Any]) -> None:
        optimiser = torch.optim.AdamW(model.parameters(), **ADAM, foreach=True)
        step = optimiser.step
        if call is not model:
            step = torch.compile(step, backend="tilegym", options=dict(REWRITTEN))
        for batch in batches():
            call(**batch).loss.backward()
            reports.append(tile_backend.last_report())
            step()
            optimiser.zero_grad()

    last = Trial(llama(num_hidden_layers=1)).check(loop)
    models = reports[-3]
    assert models is not None
    assert models.counts["silu_mul"] == 1
    assert last.counts == {}
