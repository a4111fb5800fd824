"""Compiles a model with our backend up to code generation, runs it, and tells what happened.

The graphs go through AOTAutograd and the graph passes of Inductor; what it would have compiled is
then run op by op. That leaves out seconds of C++ per model and nothing that a rewrite could break.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch
from functorch.compile import make_boxed_func
from torch._inductor.compile_fx import compile_fx

from tests.models import named
from tests.models.inputs import INPUTS
from tests.models.scenario import Scenario
from tile_backend import sessions
from tile_backend.inductor import without_codegen

REWRITTEN: Mapping[str, Any] = {"tilegym.kernels": "always"}
"""Every site becomes our op, which runs its reference on a CPU."""


@dataclasses.dataclass(frozen=True)
class Run:
    """output: what the compiled callable returned; the rest is what the report says."""

    output: Any
    counts: Mapping[str, int]
    graphs: int


def apply(compiler: Any, model: torch.nn.Module, scope: str, **settings: Any) -> Callable[..., Any]:
    """The model compiled as a whole, or with each decoder layer compiled on its own."""
    if scope == "model":
        return torch.compile(model, backend=compiler, **settings)
    for layer in named.layers(model):
        layer.compile(backend=compiler, **settings)
    return model


def ours(
    model: torch.nn.Module,
    arguments: Mapping[str, Any],
    scope: str = "model",
    options: Mapping[str, Any] = REWRITTEN,
    dynamic: bool | None = None,
) -> Run:
    """One inference call of `model(**arguments)` through backend="tilegym".

    Layers compiled on their own are several callables, each with its report: they are added up.
    """
    torch._dynamo.reset()
    before = set(sessions._sessions)
    with without_codegen(), torch.no_grad():
        compiled = apply("tilegym", model, scope, options=dict(options), dynamic=dynamic)
        output = compiled(**arguments)
    reports = [s.report for key, s in sessions._sessions.items() if key not in before]
    assert reports, "the backend was not called"
    counts = sum((collections.Counter(report.counts) for report in reports), collections.Counter())
    return Run(output, dict(sorted(counts.items())), sum(len(r.graphs) for r in reports))


def observe(model_name: str, scenario: Scenario) -> tuple[Run, torch.nn.Module]:
    """A run of a named model, and the model, uncompiled."""
    model = named.build(model_name, scenario.torch_dtype)
    arguments = INPUTS[scenario.call](model)
    compiled = named.build(model_name, scenario.torch_dtype)
    run = ours(compiled, arguments, scenario.scope, dynamic=scenario.dynamic)
    return run, model


def inductor_without_codegen(gm: torch.fx.GraphModule, inputs: Any) -> Any:
    """A backend: plain Inductor, stopped in the same place."""

    def stop(graph: torch.fx.GraphModule, _inputs: Any, **_settings: Any) -> Any:
        return make_boxed_func(graph.forward)

    return compile_fx(gm, inputs, inner_compile=stop)


def plain(
    model: torch.nn.Module,
    arguments: Mapping[str, Any],
    scope: str = "model",
    dynamic: bool | None = None,
) -> tuple[Any, int]:
    """(output, number of graphs) of the same call with plain Inductor."""
    graphs = []

    def counting(gm: torch.fx.GraphModule, inputs: Any) -> Any:
        graphs.append(gm)
        return inductor_without_codegen(gm, inputs)

    torch._dynamo.reset()
    with torch.no_grad():
        output = apply(counting, model, scope, dynamic=dynamic)(**arguments)
    return output, len(graphs)
