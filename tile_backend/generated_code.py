"""The code that Inductor generates for a graph, forward and backward, cached or not.

Torch has no public way to it. `CompiledFxGraph.post_compile` is where every compiled graph passes,
fresh or from either cache, with its source and whether it is a backward. It is wrapped once, when
somebody first wants the code, and does nothing more outside of `received_by`.
Checked against torch 2.11, 2.13 and 2.15.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator
from typing import Any, Literal

from torch._inductor import compile_fx
from torch._inductor.output_code import CompiledFxGraph

Receive = Callable[[Literal["forward", "backward"], str], None]
_receive: contextvars.ContextVar[Receive | None] = contextvars.ContextVar("receive", default=None)


@contextlib.contextmanager
def received_by(receive: Receive | None) -> Iterator[None]:
    """Inside, `receive` is called for each graph that is compiled or loaded in this thread."""
    if receive is not None:
        install()
    token = _receive.set(receive)
    try:
        yield
    finally:
        _receive.reset(token)


def inner_compile(receive: Receive, compile_one: Callable[..., Any] | None) -> Callable[..., Any]:
    """What compiles one graph for `compile_fx`; the backward is compiled when it first runs.

    compile_one: instead of Inductor's own.
    """
    inner = compile_one or compile_fx.compile_fx_inner

    def compile_and_tell(*args: Any, **kwargs: Any) -> Any:
        with received_by(receive):
            return inner(*args, **kwargs)

    return compile_and_tell


@functools.cache
def install() -> None:
    """Wrap the method, once in a process."""
    inner = CompiledFxGraph.post_compile

    @functools.wraps(inner)
    def post_compile(self: Any, example_inputs: Any, constants: Any, graph_kwargs: Any) -> None:
        receive = _receive.get()
        code = getattr(self, "source_code", "")
        if receive is not None and code:
            receive("backward" if graph_kwargs.get("is_backward") else "forward", code)
        return inner(self, example_inputs, constants, graph_kwargs)

    CompiledFxGraph.post_compile = post_compile  # type: ignore[method-assign]
