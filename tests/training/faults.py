"""Errors to be planted behind an op of ours, to see that a test of training finds them.

A fault is put into the rewritten graph as a user of the op's result, so it does not matter how the
op or its backward is implemented.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from unittest import mock

import torch
from torch import fx

from tile_backend.lowering.analysis import Analysis

Fault = Callable[[torch.Tensor], torch.Tensor]


def gradient_too_large(y: torch.Tensor) -> torch.Tensor:
    """y itself; its gradient is 1 % too large."""
    return y + 0.01 * (y - y.detach())


def gradient_lost_for_one_feature(y: torch.Tensor) -> torch.Tensor:
    """y itself; the last feature hands no gradient on."""
    return torch.cat((y[..., :-1], y[..., -1:].detach()), -1)


def cut_to_bfloat16(y: torch.Tensor) -> torch.Tensor:
    """float32 y without the bits that bfloat16 lacks, as a kernel may lose them; y's gradient.

    No cast and back: Inductor of torch 2.11 removes such a pair.
    """
    low = (y.detach().view(torch.int32) & -(1 << 16)).view(y.dtype)
    return y + (low - y.detach())


@contextlib.contextmanager
def planted(fault: Fault, op: str) -> Iterator[list[int]]:
    """Inside, compiles of ours have the fault behind each `op`; yields how many, by graph."""
    planted_in: list[int] = []
    apply = Analysis.apply

    def apply_and_plant(self: Analysis) -> Analysis:
        done = apply(self)
        for module, _ in self.accepted:
            planted_in.append(_plant(module.graph, fault, op))
            module.recompile()
        return done

    with mock.patch.object(Analysis, "apply", apply_and_plant):
        yield planted_in


def _plant(graph: fx.Graph, fault: Fault, op: str) -> int:
    found = [node for node in graph.nodes if node.target is getattr(torch.ops.tilegym, op).default]
    for node in found:
        with graph.inserting_after(node):
            wrong = graph.call_function(fault, (node,))
        wrong.meta.update(node.meta)
        node.replace_all_uses_with(
            wrong, delete_user_cb=lambda user, wrong=wrong: user is not wrong
        )
    return len(found)
