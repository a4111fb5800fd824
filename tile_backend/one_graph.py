"""Inductor's compile of one graph with ops of ours: the forward, or much later the backward.

Where it fails, the graph is compiled once more with the ops called through the dispatcher instead
of launched directly. A backward that cannot be compiled then either runs op by op: the forward has
run by that time, and no other graph would do. Each is said in one warning; a strict mode raises.
A forward that fails is its caller's to give up, who has the original graph.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from functorch.compile import make_boxed_func
from torch import fx
from torch._inductor import config

from tile_backend.errors import CompileFailed, PassFailed
from tile_backend.lowering import failure, inductor_ir, undo
from tile_backend.lowering.launch_place import launches_on

LOGGER = logging.getLogger(__name__)
Compile = Callable[..., Any]
"""(graph module, example inputs, **settings) -> what runs; Inductor's `compile_fx_inner`."""


@dataclasses.dataclass(frozen=True)
class Retries:
    """strict: the option tilegym.strict."""

    strict: str = "off"

    def around(self, compile_one: Compile) -> Compile:
        """The same, going on after a failure."""

        def compile_or_retry(module: fx.GraphModule, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            compiles = functools.partial(compile_one, module, inputs, *args, **kwargs)
            if not has_ops(module):
                return compiles()
            log = copied(module)
            try:
                return compiles()
            except Exception as error:
                cause = failure.said(error)
                backward = bool(kwargs.get("is_backward"))
                if failure.passes(error) or not (backward or self.retries(inputs)):
                    raise
                if self.strict != "off":
                    raise PassFailed(cause=cause, strict=self.strict) from error
            log.restore()  # Inductor's passes change the graph that they are given
            if self.retries(inputs):
                log = copied(module)
                compiled = by_name(compiles, backward, cause)
                if compiled is not None:
                    return compiled
                log.restore()
            warn("a backward graph", "it runs op by op", "it is slower", cause)
            return make_boxed_func(module.forward)

        return compile_or_retry

    @staticmethod
    def retries(inputs: Sequence[Any]) -> bool:
        """Whether ops are launched directly, so that there is another way to call them."""
        return any(launches_on(t.device) for t in inputs if isinstance(t, torch.Tensor))


def by_name(compiles: Callable[[], Any], backward: bool, cause: str) -> Any:
    """The graph with its ops called through the dispatcher; None for a backward that fails again.

    cause: why it failed before. Raises what a forward raises.
    """
    try:
        # Not kept: who has no such failure had better compile it anew.
        with inductor_ir.called_through_dispatcher(), config.patch(fx_graph_cache=False):
            compiled = compiles()
    except Exception as error:
        if failure.passes(error) or not backward:
            raise
        LOGGER.debug("the backward failed again", exc_info=error)
        return None
    what = f"a {'backward' if backward else 'forward'} graph with direct launches"
    instead = "its ops are called through the dispatcher"
    warn(what, instead, "each call costs some microseconds more", cause)
    return compiled


def warn(what: str, instead: str, cost: str, cause: str) -> None:
    """Said once for each graph."""
    warnings.warn(CompileFailed(what=what, instead=instead, cost=cost, cause=cause), stacklevel=2)


def graphs(module: fx.GraphModule) -> Iterator[fx.GraphModule]:
    """The graph and the bodies inside it."""
    return (part for part in module.modules() if isinstance(part, fx.GraphModule))


def has_ops(module: fx.GraphModule) -> bool:
    """Whether an op of ours is in the graph, or in a body of it."""
    return any(
        isinstance(node.target, torch._ops.OpOverload) and node.target.namespace == "tilegym"
        for part in graphs(module)
        for node in part.graph.nodes
    )


def copied(module: fx.GraphModule) -> undo.Log:
    """To have it again as it is."""
    log = undo.Log(module)
    log.save(graphs(module))
    return log
