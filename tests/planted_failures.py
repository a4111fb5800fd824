"""Failures of ours, planted where the work is about one fusion and nowhere else."""

from __future__ import annotations

import dataclasses
import functools
import types
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import fx

from tile_backend import inductor
from tile_backend.lowering.fusion import Fusion, Op
from tile_backend.rewrite_entry import RewriteEntry

Tensor = torch.Tensor
ALWAYS = {"tilegym.kernels": "always"}
VICTIM = "rms_norm"
WORDS = "Planted: in the way"
PARTS = (
    "fusion",
    "pattern",
    "match",
    "op",
    "candidates",
    "group",
    "sites",
    "key",
    "kernel",
    "slice",
)


class Planted(Exception):
    """Nothing else raises this."""


def about(value: Any) -> set[str]:
    """The names of fusions, ops and kernels that one of our values is about."""
    if isinstance(value, str):
        return {value}
    if isinstance(value, (tuple, list)):
        return {name for part in value for name in about(part)}
    if not type(value).__module__.startswith("tile_backend"):
        return set()
    found = {value.name} if isinstance(value, (Fusion, Op)) else set[str]()
    if isinstance(value, RewriteEntry):
        return {site.fusion for site in value.group.sites}
    return found.union(*(about(getattr(value, part, None)) for part in PARTS))


def is_victim(*args: Any) -> bool:
    return any(VICTIM in about(arg) for arg in args)


def failing(
    function: Callable[..., Any], wanted: Callable[..., bool] = is_victim, late: bool = False
) -> Callable[..., Any]:
    """The function, which raises for the victim. late: it does its work before."""

    @functools.wraps(function)
    def fails(*args: Any, **kwargs: Any) -> Any:
        if not wanted(*args):
            return function(*args, **kwargs)
        if late:
            function(*args, **kwargs)
        raise Planted("in the way")

    return fails


def at_nodes(*names: str) -> Callable[..., bool]:
    """Whether a call is about a node that calls one of these."""

    def wanted(*args: Any) -> bool:
        nodes: Iterable[fx.Node] = (a for a in args if isinstance(a, fx.Node))
        return any(str(getattr(n.target, "__name__", n.target)) in names for n in nodes)

    return wanted


def always(*args: Any) -> bool:
    return True


def raises(*args: Any, **kwargs: Any) -> Any:
    raise Planted("in the way")


def ops_in(module: fx.GraphModule) -> list[str]:
    """The names of our ops in a graph and its bodies, in order."""
    parts = (part for part in module.modules() if isinstance(part, fx.GraphModule))
    targets = (node.target for part in parts for node in part.graph.nodes)
    overloads = (t for t in targets if isinstance(t, torch._ops.OpOverload))
    return [str(t._schema.name).split("::")[1] for t in overloads if t.namespace == "tilegym"]


@dataclasses.dataclass(frozen=True)
class Place:
    """A function that fails. wanted: in which calls. late: after it has done its work."""

    module: Any
    name: str
    wanted: Callable[..., bool] = is_victim
    late: bool = False

    @property
    def title(self) -> str:
        where = getattr(self.module, "__name__", str(self.module)).rpartition(".")[2]
        return f"{where}.{self.name}{'.late' if self.late else ''}"

    def plant(self, patch: pytest.MonkeyPatch) -> None:
        fails = failing(getattr(self.module, self.name), self.wanted, self.late)
        patch.setattr(self.module, self.name, fails)


def title(place: Any) -> str | None:
    return place.title if isinstance(place, Place) else None


def program(x: Tensor, weight: Tensor, side: Tensor, up: Tensor) -> tuple[Tensor, ...]:
    """The victim, another site, and what is almost a norm."""
    normed = weight * (x * torch.rsqrt(x.pow(2).mean(-1, True) + 1e-6))
    gated = F.silu(side) * up
    almost = side * torch.rsqrt(side.pow(2).mean(-2, True) + 1e-6)
    return normed, gated, almost


def inputs() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((6, 32), (32,), (6, 32), (6, 32))
    return [torch.randn(shape, generator=generator) for shape in shapes]


def twin(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same with a code object of its own: what Dynamo skips, it skips from then on."""
    return types.FunctionType(function.__code__.replace(co_name="twin"), function.__globals__)


def handed_over(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Our ops in each graph that Inductor gets from now on."""
    seen: list[list[str]] = []
    compile_ = inductor.Inductor.compile

    def compiling(self: Any, module: fx.GraphModule, given: Any) -> Any:
        module.graph.lint()
        seen.append(ops_in(module))
        return compile_(self, module, given)

    monkeypatch.setattr(inductor.Inductor, "compile", compiling)
    return seen
