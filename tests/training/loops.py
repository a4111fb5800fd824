"""A training loop run three times: eager, in float64, and compiled by us with every site rewritten.

The parameters after it are held within the budget. A `Trial` compiles once and serves many loops.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

import tile_backend
from tests import expectations
from tests.models import named
from tests.models.run import REWRITTEN
from tests.training import prose
from tile_backend.inductor import without_codegen
from tile_backend.lowering import oracle
from tile_backend.lowering.budget import within_budget

Loop = Callable[[torch.nn.Module, Callable[..., Any]], None]
"""(model whose parameters are trained, what is called in its place); the same batches each time."""

STEPS = 3
ADAM: Mapping[str, Any] = {"lr": 2.0**-9.5, "eps": 1e-4}
"""Of all loops; tests.training.trajectory says why."""


def llama(**changes: Any) -> torch.nn.Module:
    """Two layers, whose words are bytes."""
    return named.build("llama", vocab_size=prose.VOCABULARY, **changes).train()


def batches(steps: int = STEPS, batch: int = 2, length: int = 24) -> Iterator[dict[str, Any]]:
    """Keyword arguments of a causal language model whose words are bytes."""
    for ids in prose.batches(0, steps, batch, length):
        yield {"input_ids": ids, "labels": ids, "use_cache": False}


class Trial:
    """Three copies of a model, one of them compiled; every `check` starts from the same weights."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = model
        self.eager, self.ours, self.wide = (
            copy.deepcopy(model),
            copy.deepcopy(model),
            oracle.widened(model),
        )
        torch._dynamo.reset()
        self.compiled = torch.compile(self.ours, backend="tilegym", options=dict(REWRITTEN))

    def check(self, loop: Loop) -> tile_backend.Report:
        """Raises AssertionError where our parameters are over budget. The report so far."""
        for each in (self.eager, self.ours, self.wide):
            each.load_state_dict(self.model.state_dict())
            each.zero_grad()
        loop(self.eager, self.eager)
        with oracle.Float64():
            loop(self.wide, self.wide)
        with without_codegen():
            loop(self.ours, self.compiled)
        assert_parameters(self.ours, self.wide, self.eager)
        assert not torch.equal(flat(self.ours), flat(self.model)), "nothing was trained"
        report = tile_backend.last_report()
        assert report is not None, "the backend was not called"
        return report


def assert_parameters(ours: torch.nn.Module, wide: torch.nn.Module, eager: torch.nn.Module) -> None:
    """All of them as one output: a small parameter has too few elements to be a measure alone."""
    verdict = within_budget(*(flat(each) for each in (ours, wide, eager)))
    assert verdict, f"parameters: {verdict}"


def flat(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def assert_sites(report: tile_backend.Report, name: str = "llama") -> None:
    """Training finds what prefill of the named model finds; what it finds besides is the loss's,
    whose last layer stays because the model returns the logits.
    """
    expected = expectations.load(name)["float32 prefill model static"]["sites"]
    assert expected.items() <= report.counts.items(), report.counts
    declined = [s for s in report.having("declined") if s.fusion != "linear_cross_entropy"]
    assert declined == [], [str(site.reason) for site in declined]
