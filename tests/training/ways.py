"""The three ways to run a training: eager, inductor, tilegym, each compiled once for all seeds."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import torch

import tile_backend
from tests.training.trajectory import SEEDS, Setup, Trajectory, Way
from tile_backend.inductor import without_codegen


@functools.cache
def eager(setup: Setup) -> tuple[Trajectory, ...]:
    way = Way(setup, lambda model: model)
    return tuple(way.run(seed) for seed in SEEDS)


@functools.cache
def inductor(setup: Setup) -> tuple[Trajectory, ...]:
    """With Inductor's generated code: its rounding is the scale of what is compared."""
    torch._dynamo.reset()
    way = Way(setup, lambda model: torch.compile(model, backend="inductor"))
    return tuple(way.run(seed) for seed in SEEDS)


def tilegym(
    setup: Setup, options: Mapping[str, Any], codegen: bool = False
) -> tuple[tuple[Trajectory, ...], tile_backend.Report]:
    """The runs, and the report of the compile. Without `codegen` the graphs are run op by op."""
    torch._dynamo.reset()

    def compiled(model: torch.nn.Module) -> Any:
        return torch.compile(model, backend="tilegym", options=dict(options))

    def runs() -> tuple[Trajectory, ...]:
        way = Way(setup, compiled)
        return tuple(way.run(seed) for seed in SEEDS)

    if codegen:
        trajectories = runs()
    else:
        with without_codegen():
            trajectories = runs()
    report = tile_backend.last_report()
    assert report is not None, "the backend was not called"
    return trajectories, report
