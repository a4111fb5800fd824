"""Selective activation checkpointing with our ops in the region: the user's policy is obeyed.

What is saved is read off the tensors that the compiled forward keeps for its backward.
"""

from __future__ import annotations

import contextlib
import functools
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

from tests.models.check import assert_like_eager
from tests.models.run import REWRITTEN
from tests.norm_program import norm
from tile_backend import registry
from tile_backend.inductor import without_codegen
from tile_backend.lowering import checkpoint_policy, custom_op

Tensor = torch.Tensor
B, H, S, D = 2, 4, 24, 16
WIDE = 40
"""A size that only the gate's product has."""

aten = torch.ops.aten


def inputs() -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((B, H, S, D), (D, D), (D,), (D, WIDE), (D, WIDE))
    return tuple(torch.randn(s, generator=generator).requires_grad_() for s in shapes)


def layer(x: Tensor, mixing: Tensor, weight: Tensor, gate: Tensor, up: Tensor) -> Tensor:
    """A product, attention, a norm, a gate; nothing of them has the shape of an input."""
    q = x @ mixing
    a = F.scaled_dot_product_attention(q, x, x, is_causal=True)
    h = norm(a, weight)
    return (F.silu(h @ gate) * (h @ up)).sum(-1)


def program(context: Callable[..., Any] | None) -> Callable[..., Tensor]:
    settings = {} if context is None else {"context_fn": context}

    def run(*given: Tensor) -> Tensor:
        return checkpoint(layer, *given, use_reentrant=False, **settings).sin()

    return run


def saved(function: Callable[..., Any]) -> Counter[tuple[int, ...]]:
    """How many tensors of each shape the compiled forward keeps, beside its inputs."""
    torch._dynamo.reset()
    given = inputs()
    known = {t.data_ptr() for t in given}
    kept: Counter[tuple[int, ...]] = Counter()

    def pack(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, FakeTensor) and tensor.data_ptr() not in known:
            kept[tuple(tensor.shape)] += 1
        return tensor

    with without_codegen(), torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        compiled = torch.compile(function, backend="tilegym", options=dict(REWRITTEN))
        compiled(*given).sum().backward()
    return kept


def policy_that_saves(*ops: Any) -> Callable[[], Any]:
    def policy(context: Any, op: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
        return CheckpointPolicy.MUST_SAVE if op in ops else CheckpointPolicy.PREFER_RECOMPUTE

    return functools.partial(create_selective_checkpoint_contexts, policy)


def list_of(*ops: Any) -> Callable[[], Any]:
    return functools.partial(create_selective_checkpoint_contexts, list(ops))


ATTENTION, LSE, NORMED, GATED = (B, H, S, D), (B, H, S), (B, H, S, D), (B, H, S, WIDE)
OUTPUT_AND_LSE = {ATTENTION: 1, LSE: 1}
"""What the backward of attention needs beside inputs."""
custom_op.define(registry.known_fusions())
ours = torch.ops.tilegym


@pytest.mark.parametrize(
    ("context", "kept"),
    [
        (None, {}),
        (policy_that_saves(), {}),
        (policy_that_saves(ours.attention.default), OUTPUT_AND_LSE),
        (list_of(ours.rms_norm.default), {NORMED: 1}),
        (list_of(ours.silu_mul.default), {GATED: 1}),
        (list_of(aten._scaled_dot_product_flash_attention.default), OUTPUT_AND_LSE),
        (list_of(aten._scaled_dot_product_flash_attention_for_cpu.default), OUTPUT_AND_LSE),
        (list_of(aten._flash_attention_backward.default), {}),
    ],
    ids=("no_policy", "nothing", "attention", "norm", "gate", "flash", "flash_cpu", "another_op"),
)
def test_what_a_policy_says_is_done(context: Any, kept: dict[tuple[int, ...], int]) -> None:
    assert saved(program(context)) == kept


def test_a_policy_may_compare_names() -> None:
    """The ops need not exist when it is made."""

    def policy(context: Any, op: Any, *args: Any, **kwargs: Any) -> bool:
        return bool(op.name() == "tilegym::rms_norm")

    context = functools.partial(create_selective_checkpoint_contexts, policy)
    assert saved(program(context)) == {NORMED: 1}


def test_without_checkpointing_attention_is_saved() -> None:
    """So that the numbers above say something."""
    assert saved(lambda *given: layer(*given).sin())[LSE] > 0


CLASSES = 48


def loss_of_a_layer(context: Callable[..., Any] | None) -> Callable[..., Tensor]:
    """The last layer and its loss in one region, with a weight and labels of its own."""
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(CLASSES, D, generator=generator)
    labels = torch.randint(0, CLASSES, (B * H * S,), generator=generator)

    def loss(x: Tensor) -> Tensor:
        return F.cross_entropy(F.linear(x.flatten(0, 2), weight).float(), labels)

    settings = {} if context is None else {"context_fn": context}

    def run(x: Tensor, *_: Tensor) -> Tensor:
        return checkpoint(loss, x.sin(), use_reentrant=False, **settings)

    return run


@pytest.mark.parametrize(
    ("ops", "kept"),
    [
        ((), 0),
        ((aten.mm.default,), 1),
        ((aten.nll_loss_forward.default,), 1),
        ((ours.linear_cross_entropy.default,), 1),
        ((aten.convolution.default,), 0),
    ],
    ids=("nothing", "product", "loss", "ours", "another_op"),
)
def test_a_loss_stands_for_its_product_and_for_the_loss(ops: tuple[Any, ...], kept: int) -> None:
    """What is saved is the gradient of the hidden states, which the forward has computed."""
    report = saved(loss_of_a_layer(policy_that_saves(*ops)))
    assert report[B * H * S, D] == kept


def test_gradients_are_those_of_eager() -> None:
    report = assert_like_eager(program(list_of(ours.attention.default)), *inputs())
    assert report.counts == {"attention": 1, "rms_norm": 1, "silu_mul": 1}


def test_a_policy_is_asked_by_the_name_of_the_site() -> None:
    """With the op's own arguments, also where another op runs; for others only if that is no."""
    asked: list[tuple[Any, int]] = []

    def policy(context: Any, op: Any, *args: Any, **kwargs: Any) -> bool:
        if not context.is_recompute:
            asked.append((op, len(args)))
        return op is ours.attention.default

    saved(program(functools.partial(create_selective_checkpoint_contexts, policy)))
    names = [op for op, _ in asked if op.namespace == "tilegym"]
    assert names[:3] == [ours.attention.default, ours.rms_norm.default, ours.silu_mul.default]
    assert set(names) == set(names[:3])  # torch traces the region more than once
    assert not any(op.name().startswith("aten::_scaled_dot") for op, _ in asked)
    assert dict(asked)[ours.attention.default] > 3


def test_other_context_functions_are_left_alone() -> None:
    class Modes:
        cache_hash = "mine"

        def __call__(self) -> tuple[Any, Any]:
            return contextlib.nullcontext(), contextlib.nullcontext()

    body = torch.fx.GraphModule({}, torch.fx.Graph())
    body.meta[checkpoint_policy.META] = own = Modes()
    checkpoint_policy.apply_to([body, body])
    asked = body.meta[checkpoint_policy.META]
    assert asked.context_fn is own
    assert asked.cache_hash == "mine"
    assert [type(mode) for mode in asked()] == [contextlib.nullcontext] * 2
