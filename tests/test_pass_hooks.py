"""Passes that a user has in Inductor's hooks run as well, before ours, whatever the hook takes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import fx
from torch._inductor.custom_graph_pass import CustomGraphPass

from tests.norm_program import norm
from tile_backend import inductor

HOOKS = ("pre_grad_custom_pass", "joint_custom_post_pass")


class Seen(CustomGraphPass):
    """Remembers the ops of the graphs that it was called with, and the place in `order`."""

    def __init__(self, name: str, order: list[str] | None = None) -> None:
        self.name = name
        self.order = [] if order is None else order
        self.ops: set[str] = set()

    def __call__(self, graph: fx.Graph) -> None:
        self.order.append(self.name)
        self.ops |= {str(node.target) for node in graph.nodes}

    def uuid(self) -> Any:
        return self.name


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("hook", HOOKS)
def test_the_users_passes_see_our_ops(hook: str, number: int) -> None:
    torch._dynamo.reset()
    passes = [Seen(f"{hook} {index}") for index in range(number)]
    options = {"tilegym.kernels": "always", hook: passes[0] if number == 1 else passes}
    with inductor.without_codegen():
        torch.compile(norm, backend="tilegym", options=options)(torch.randn(4, 8), torch.ones(8))
    assert all("tilegym.rms_norm.default" in one.ops for one in passes)


@pytest.mark.parametrize("existing", [Seen("a"), [Seen("a")], (Seen("a"), Seen("b"))])
def test_ours_comes_last(existing: Any) -> None:
    found = inductor.chained(existing, Seen("ours"))
    passes = found.passes if isinstance(found, inductor.Chain) else found
    assert passes[-1].name == "ours"
    assert len(passes) == (len(existing) if isinstance(existing, (list, tuple)) else 1) + 1
    assert inductor.chained(None, passes[-1]) is passes[-1]


def test_a_chain_is_its_passes_in_order_with_the_identity_of_all() -> None:
    order: list[str] = []
    first, second = Seen("first", order), Seen("second", order)
    chain = inductor.Chain([first, second])
    chain(fx.Graph())
    assert order == ["first", "second"]
    assert chain.uuid() == ("first", "second")
    assert chain.uuid() != inductor.Chain([second, first]).uuid()


def test_a_pass_without_identity_keeps_a_chain_out_of_the_caches() -> None:
    assert inductor.Chain([Seen("known"), lambda graph: None]).uuid() is None
