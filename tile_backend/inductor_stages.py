"""What Inductor makes of a graph, stage by stage, up to the code: nothing is built or run.

`watched` compiles a graph that Dynamo has captured, inside the capture, and keeps AOTAutograd's
graphs, Inductor's schedule and the text of the code. No cache of torch's is read or written, and
nothing of it stays. Checked against torch 2.11, 2.13 and 2.15.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any
from unittest import mock

import torch._functorch.config as functorch_config
import torch._inductor.compile_fx as compile_fx
import torch._inductor.config as inductor_config
import torch._inductor.debug as inductor_debug
from functorch.compile import make_boxed_func
from torch import fx
from torch._inductor.custom_graph_pass import CustomGraphPass
from torch._inductor.graph import GraphLowering

from tile_backend import inductor


@dataclasses.dataclass
class Compiled:
    """One graph of AOTAutograd's.

    aten: the graph as Python. schedule: what runs one after another, and what became one loop.
    code: the program that would be run. moved: bytes that its kernels and products read and write,
    each buffer once. Empty where the compile did not get there: `failure` says why.
    """

    part: str
    aten: str
    schedule: str = ""
    code: str = ""
    failure: str = ""
    moved: int = 0


class _Written(Exception):
    """Ends a compile when its code is there, before a compiler builds the loops."""


def watched(
    module: fx.GraphModule, inputs: list[Any], passes: Mapping[str, CustomGraphPass]
) -> tuple[Compiled, ...]:
    """The forward graph, and the backward one where a gradient is wanted.

    inputs: as Dynamo hands them over with the graph. passes: as inductor.Inductor has them.
    Raises what AOTAutograd raises; a failure of Inductor's is in the result.
    """
    found: list[Compiled] = []

    def compiled(graph: fx.GraphModule, given: Any, **kwargs: Any) -> Any:
        part = "backward" if kwargs.get("is_backward") else "forward"
        readable = graph.print_readable(print_output=False)
        found.append(Compiled(part, without_gaps(readable)))
        try:
            compile_fx.compile_fx_inner(graph, given, **kwargs)
        except inductor.RESTART:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, it is shown
            if not caused_by(error, _Written):
                found[-1].failure = f"{type(error).__name__}: {error}"
        return make_boxed_func(graph.forward)

    patches = {
        hook: inductor.chained(getattr(inductor_config, hook), ours)
        for hook, ours in passes.items()
    }
    with _watching(found):
        compile_fx.compile_fx(module, inputs, inner_compile=compiled, config_patches=patches)
    return tuple(found)


@contextlib.contextmanager
def _watching(found: list[Compiled]) -> Iterator[None]:
    """Inside, schedule and code of each graph are noted, and then its compile ends."""

    def write(graph: GraphLowering) -> None:
        found[-1].code = graph.codegen()[0].value
        nodes = graph.scheduler.nodes
        found[-1].moved = sum(int(node.get_read_write_buffers_sizes()) for node in nodes)
        raise _Written

    def note(nodes: Any) -> None:
        found[-1].schedule = "\n\n".join(node.debug_str() for node in nodes)

    with (
        mock.patch.object(GraphLowering, "compile_to_module", write),
        mock.patch.object(inductor_debug, "log_ir_post_fusion", note),
        inductor_config.patch(fx_graph_cache=False),
        functorch_config.patch(enable_autograd_cache=False, force_non_lazy_backward_lowering=True),
    ):
        yield


def caused_by(error: BaseException | None, kind: type[BaseException]) -> bool:
    """Whether the error is one of that kind, or wraps one."""
    while error is not None and not isinstance(error, kind):
        error = getattr(error, "inner_exception", None) or error.__cause__ or error.__context__
    return error is not None


def without_gaps(readable: str) -> str:
    """A graph as Python, without the empty lines between its operations."""
    return "\n".join(line for line in readable.split("\n") if line.strip())
