"""Failures of ours, planted where the work is about one fusion and nowhere else."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import fx

from tile_backend.lowering.fusion import Fusion, Op
from tile_backend.rewrite_entry import RewriteEntry

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


def ops_in(module: fx.GraphModule) -> list[str]:
    """The names of our ops in a graph and its bodies, in order."""
    parts = (part for part in module.modules() if isinstance(part, fx.GraphModule))
    targets = (node.target for part in parts for node in part.graph.nodes)
    overloads = (t for t in targets if isinstance(t, torch._ops.OpOverload))
    return [str(t._schema.name).split("::")[1] for t in overloads if t.namespace == "tilegym"]
