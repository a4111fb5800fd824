"""Scenarios for the plain-PyTorch models, which take positional tensors and are compiled whole."""

from __future__ import annotations

import dataclasses

import torch

import tile_backend
from tests.models import plain
from tests.models.run import REWRITTEN, Run
from tests.models.scenario import Setting
from tile_backend.inductor import without_codegen


@dataclasses.dataclass(frozen=True)
class PlainScenario(Setting):
    dtype: str
    shapes: str


SCENARIOS = tuple(
    PlainScenario(dtype, shapes)
    for dtype in ("float32", "bfloat16")
    for shapes in ("static", "dynamic")
)


def observe_plain(
    name: str, scenario: PlainScenario
) -> tuple[Run, torch.nn.Module, tuple[torch.Tensor, ...]]:
    """A run, and the uncompiled model with its inputs."""
    dtype = scenario.torch_dtype
    compiled, _ = plain.build(name, dtype)
    model, inputs = plain.build(name, dtype)
    torch._dynamo.reset()
    with without_codegen(), torch.no_grad():
        output = torch.compile(
            compiled,
            backend="tilegym",
            options=dict(REWRITTEN),
            dynamic=scenario.dynamic,
        )(*inputs)
    report = tile_backend.last_report()
    assert report is not None, "the backend was not called"
    return Run(output, report.counts, len(report.graphs)), model, inputs
