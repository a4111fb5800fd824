"""Captures a function as Dynamo does, analyses and rewrites the graph, and runs both.

No compile takes place: the graph with our ops in it is plain code.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import fx

from tile_backend import inductor, pipeline, registry
from tile_backend.lowering import custom_op, oracle, undo
from tile_backend.lowering.analysis import Analysis
from tile_backend.lowering.anchors import anchors
from tile_backend.lowering.budget import Verdict, within_budget
from tile_backend.lowering.canonical import CanonicalGraph
from tile_backend.lowering.fusion import Fusion
from tile_backend.lowering.site import Site
from tile_backend.options import Options

Measure = Callable[[Callable[..., Any], Sequence[Any]], list[torch.Tensor | None]]
INPUT = re.compile(r"[lL]_(?:kwargs_)?(?P<name>\w+?)_")
ALWAYS = Options(kernels="always")


@dataclasses.dataclass(frozen=True)
class Captured:
    """A Dynamo graph and the real tensors for its inputs, in order."""

    module: fx.GraphModule
    inputs: tuple[Any, ...]

    def analyse(self, options: Options = ALWAYS) -> Analysis:
        return pipeline.analyse(self.module, options)

    def has_anchor(self, fusion: Fusion) -> bool:
        return bool(anchors(CanonicalGraph(self.module.graph), [fusion]))

    def rewritten(self, options: Options = ALWAYS) -> tuple[Callable[..., Any], tuple[Site, ...]]:
        """The graph with our ops, as a function; this graph stays as it is."""
        custom_op.define(registry.known_fusions())
        twin = kept(self.module)
        found = pipeline.analyse(twin, options).apply()
        twin.recompile()
        return twin, found.sites


def capture(function: Callable[..., Any], inputs: Mapping[str, torch.Tensor]) -> Captured:
    """inputs: tensors by parameter name. The function must capture as one graph."""
    torch._dynamo.reset()
    with torch._dynamo.config.patch(automatic_dynamic_shapes=False):
        found = inductor.capture(function, (), inputs, kept)
    assert found.visited is not None, found.break_reason
    assert not found.break_reason, found.break_reason
    taken = []
    for node in found.visited.graph.find_nodes(op="placeholder"):
        named = INPUT.fullmatch(node.name)
        assert named is not None, f"{node.name} is no tensor argument"
        taken.append(inputs[named["name"]])
    return Captured(found.visited, tuple(taken))


def kept(module: fx.GraphModule) -> fx.GraphModule:
    """A copy that outlives the capture; fake values and metadata are shared."""
    return fx.GraphModule(module, undo.copied(module.graph))


def names_of_ops(module: Any) -> list[str]:
    """Our ops in a rewritten graph, in order."""
    targets = (str(node.target) for node in module.graph.nodes)
    return [name.split(".")[1] for name in targets if name.startswith("tilegym.")]


def tensors(result: Any) -> list[torch.Tensor]:
    return list(result) if isinstance(result, (tuple, list)) else [result]


def clone(argument: Any) -> Any:
    return argument.clone() if isinstance(argument, torch.Tensor) else argument


def outcome(function: Callable[..., Any], inputs: Sequence[Any]) -> list[torch.Tensor | None]:
    """Results, and the inputs after the call, which is made with copies of them."""
    own = [clone(argument) for argument in inputs]
    return [*tensors(function(*own)), *own]


DRAWS = 4


def drawn(inputs: Sequence[Any], seed: int) -> list[Any]:
    """Other normal numbers for real operands; masks and complex numbers as they are."""
    generator = torch.Generator().manual_seed(seed)

    def draw(given: Any) -> Any:
        if seed == 0 or not isinstance(given, torch.Tensor) or not given.is_floating_point():
            return given
        return torch.randn(given.shape, generator=generator).to(given.dtype)

    return [draw(given) for given in inputs]


def judged(
    ours: Callable[..., Any],
    original: Callable[..., Any],
    inputs: Sequence[Any],
    measure: Measure = outcome,
) -> Verdict:
    """Results and written inputs of `ours`, held against the budget that the original sets.

    Over several draws: the worst of a few numbers says little about a rounding error.
    """
    columns: list[list[Any]] = [[], [], []]
    for seed in range(DRAWS):
        given = drawn(inputs, seed)
        wide = [clone(argument) for argument in oracle.widened(tuple(given))]
        exact = oracle.float64(functools.partial(measure, original))(wide)
        found = (measure(ours, given), exact, measure(original, given))
        for column, results in zip(columns, found, strict=True):
            column.append(results)
    return within_budget(*(joined(column) for column in columns))


def joined(draws: list[list[torch.Tensor | None]]) -> list[torch.Tensor | None]:
    """The results of all draws, each as one tensor; None where there is none in any draw."""
    return [
        None if any(one is None for one in results) else torch.stack(results)
        for results in zip(*draws, strict=True)
    ]
