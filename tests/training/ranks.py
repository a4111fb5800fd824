"""What each of two processes trains, every one on its half of every batch.

Each way of sharing the work leaves an `Outcome`: all of the parameters after three steps of AdamW,
and what the reports of this process say.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import tile_backend
from tests.models import named
from tests.models.run import REWRITTEN
from tests.training.loops import ADAM, batches, llama
from tests.training.processes import WORLD
from tile_backend import sessions
from tile_backend.inductor import without_codegen

WIDE: Mapping[str, int] = {"hidden_size": 128, "intermediate_size": 512}
"""DDP's first bucket holds 1 MiB, about one layer of this width."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """parameters: by name. sites: of all callables. reports: one for each compiled callable."""

    parameters: Mapping[str, torch.Tensor]
    sites: Mapping[str, int]
    reports: tuple[tile_backend.Report, ...]

    @property
    def breaks(self) -> list[str]:
        """The reasons of graph breaks."""
        reasons = (graph.break_reason for report in self.reports for graph in report.graphs)
        return [reason for reason in reasons if reason]


def train(model: torch.nn.Module, call: Callable[..., Any], rank: int) -> None:
    """The loss is a mean over a batch, and gradients are averaged over processes."""
    optimiser = torch.optim.AdamW(model.parameters(), **ADAM)
    for batch in batches():
        share = {
            name: value.chunk(WORLD)[rank] if isinstance(value, torch.Tensor) else value
            for name, value in batch.items()
        }
        call(**share).loss.backward()
        optimiser.step()
        optimiser.zero_grad()


def data_parallel(rank: int) -> torch.nn.Module:
    """All gradients in one bucket."""
    model = llama()
    wrapped = DistributedDataParallel(model)
    train(wrapped, compiled(wrapped), rank)
    return model


def data_parallel_in_buckets(rank: int) -> torch.nn.Module:
    """Buckets of 1 MiB: Dynamo's DDPOptimizer cuts the graph, to send gradients early."""
    model = llama(**WIDE)
    wrapped = DistributedDataParallel(model, bucket_cap_mb=1)
    train(wrapped, compiled(wrapped), rank)
    return model


def sharded(rank: int) -> torch.nn.Module:
    """FSDP2 shards each layer, and the rest; the whole model is compiled."""
    model = llama()
    shard(model)
    train(model, compiled(model), rank)
    return model


def sharded_layers(rank: int) -> torch.nn.Module:
    """As sharded; each layer is compiled on its own, which torch recommends."""
    model = llama()
    for layer in named.layers(model):
        layer.compile(backend="tilegym", options=dict(REWRITTEN), fullgraph=True)
    shard(model)
    train(model, model, rank)
    return model


def shard(model: torch.nn.Module) -> None:
    mesh = init_device_mesh("cpu", (WORLD,))
    for layer in named.layers(model):
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)


def compiled(model: torch.nn.Module) -> Any:
    return torch.compile(model, backend="tilegym", options=dict(REWRITTEN))


def work(rank: int, _folder: Path) -> dict[str, Outcome]:
    """What is cut into several graphs, one after the other, by name."""
    return {kind.__name__: outcome(kind, rank) for kind in (data_parallel_in_buckets, sharded)}


def work_of_whole_graphs(rank: int, _folder: Path) -> dict[str, Outcome]:
    """The rest, likewise."""
    return {kind.__name__: outcome(kind, rank) for kind in (data_parallel, sharded_layers)}


def outcome(kind: Callable[[int], torch.nn.Module], rank: int) -> Outcome:
    torch._dynamo.reset()
    before = set(sessions._sessions)
    with without_codegen():
        model = kind(rank)
    parameters = {name: whole(parameter) for name, parameter in model.named_parameters()}
    reports = tuple(s.report for key, s in sessions._sessions.items() if key not in before)
    sites = sum((collections.Counter(report.counts) for report in reports), collections.Counter())
    return Outcome(parameters, dict(sites), reports)


def whole(parameter: torch.Tensor) -> torch.Tensor:
    """All of a parameter, whatever part of it this process holds."""
    gathered = getattr(parameter.detach(), "full_tensor", parameter.detach)()
    assert isinstance(gathered, torch.Tensor)
    return gathered.clone()
