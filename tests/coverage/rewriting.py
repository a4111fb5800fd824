"""Runs a model's Dynamo graphs with every site rewritten, op by op: no AOTAutograd, no Inductor.

A site becomes its op, which runs its reference on a CPU: outputs say whether rewrites are right.
What comes after is tested elsewhere (tests/test_models_*.py) and takes most of the time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from tile_backend import pipeline, registry
from tile_backend.lowering import inductor_ir
from tile_backend.lowering.site import Site
from tile_backend.options import Options

REWRITE_ALL = Options(kernels="always")


@dataclasses.dataclass
class Graph:
    """What was found in one graph, and how often it has run."""

    sites: tuple[Site, ...]
    runs: int = 0


class Rewriting:
    """A Dynamo backend; `graphs` grows."""

    def __init__(self) -> None:
        self.graphs: list[Graph] = []
        inductor_ir.install(registry.known_fusions())

    @property
    def sites(self) -> list[Site]:
        """Of every graph once."""
        return [site for graph in self.graphs for site in graph.sites]

    @property
    def passed(self) -> list[Site]:
        """Of every run: a graph that serves two layers counts twice, like the calls it replaces."""
        return [site for graph in self.graphs for _ in range(graph.runs) for site in graph.sites]

    def __call__(self, module: torch.fx.GraphModule, _inputs: Sequence[Any]) -> Any:
        found = pipeline.analyse(module, REWRITE_ALL).apply()
        graph = Graph(found.sites)
        self.graphs.append(graph)

        def run(*inputs: Any) -> Any:
            graph.runs += 1
            return module.forward(*inputs)

        return run


@torch.no_grad()
def rewritten(model: torch.nn.Module, arguments: Mapping[str, Any]) -> tuple[Any, Rewriting]:
    """(output of the rewritten model, what was found)."""
    torch._dynamo.reset()
    rewriting = Rewriting()
    return torch.compile(model, backend=rewriting)(**arguments), rewriting
