"""Inductor on a few operations, while it is about to compile the program that they are part of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import fx
from torch._functorch import config

from tile_backend.inductor import Inductor

WITHOUT_GRAPHS = {"triton.cudagraphs": False}
"""A graph of CUDA launches takes some calls to be recorded; the operations are called once."""


def compiler(
    mode: str | None, options: Mapping[str, Any]
) -> Callable[[fx.GraphModule, Sequence[Any]], Callable[..., Any]]:
    """(code, example inputs) -> what runs, compiled with the user's mode and options.

    The backward is compiled at once: later, torch takes it for one of the program around.
    """
    inductor = Inductor(mode, {**options, **WITHOUT_GRAPHS})

    def compile_alone(code: fx.GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
        with config.patch(force_non_lazy_backward_lowering=True):
            return inductor.compile(code, inputs)

    return compile_alone
