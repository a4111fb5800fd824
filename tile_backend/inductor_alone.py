"""Inductor on a few operations, while it is about to compile the program that they are part of."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import fx
from torch._functorch import config

from tile_backend.inductor import Identity, Inductor
from tile_backend.lowering.joint_graph import JointGraphPass
from tile_backend.source_digest import sources

WITHOUT_GRAPHS = {"triton.cudagraphs": False}
"""A graph of CUDA launches takes some calls to be recorded; the operations are called once."""


@dataclasses.dataclass(frozen=True)
class InductorAlone:
    """Called with code and example inputs, gives what runs. The user's mode and options.

    With our passes, as the program will be compiled. The backward is compiled at once: later, torch
    takes it for one of the program around.
    """

    mode: str | None
    options: Mapping[str, Any]

    @property
    def identity(self) -> str:
        """Other settings may give other bits."""
        return repr((self.mode, sorted(self.options.items())))

    def __call__(self, code: fx.GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
        passes = {
            "pre_grad_custom_pass": Identity(sources()),
            "joint_custom_post_pass": JointGraphPass(sources()),
        }
        inductor = Inductor(self.mode, {**self.options, **WITHOUT_GRAPHS}, passes=passes)
        with config.patch(force_non_lazy_backward_lowering=True):
            return inductor.compile(code, inputs)
