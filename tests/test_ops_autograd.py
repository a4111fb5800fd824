"""The derived backward: what it computes, what it leaves out, and what it refuses to do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.autograd import forward_ad

from tests.op_samples import Case, arguments, one_of_each
from tile_backend.lowering import autograd, custom_op, oracle
from tile_backend.lowering.fusion import Fusion, Op

ops = torch.ops.tilegym


def define_op(name: str, schema: str, reference: Any, outputs: Any) -> Any:
    """A throw-away op whose reference the test can watch."""
    op = Op(name, schema, reference, outputs)
    custom_op.define([Fusion(name, "", (op,), holes={}, spellings=())])
    return custom_op.record(name).overload


FLOAT32 = ("attention_split", "attention_join")
"""Ops whose results or operands are float32 whatever the model's dtype is."""


@pytest.mark.parametrize(
    "case", [case for case in one_of_each() if case.op not in FLOAT32], ids=str
)
def test_gradcheck_in_float64(case: Case) -> None:
    """Through the real registration, with a reference whose casts to float32 mean float64."""
    record = case.record
    exact = define_op(
        f"test_float64_{record.op.name}",
        record.op.schema,
        oracle.float64(record.op.reference),
        lambda **given: oracle.widened(record.op.outputs(**given)),
    )
    values = arguments(case, torch.float64, grad=True).values()
    wide = [v.double().detach().requires_grad_() if _differentiable(v) else v for v in values]
    assert torch.autograd.gradcheck(exact, wide, fast_mode=True)


def _differentiable(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.requires_grad


def test_frozen_inputs_cost_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, ...]] = []
    original = autograd.gradients

    def watched(op: Any, values: Any, needed: Any, cotangents: Any) -> Any:
        asked.append(tuple(needed))
        return original(op, values, needed, cotangents)

    monkeypatch.setattr(autograd, "gradients", watched)
    x = torch.randn(2, 4, requires_grad=True)
    frozen = torch.ones(4)
    ops.rms_norm(x, frozen, 1e-6).sum().backward()
    assert asked == [("x",)]
    assert frozen.grad is None
    ops.silu_mul(x, x.detach()).sum().backward()
    assert asked[1:] == [("gate",)]


def test_a_result_without_gradient_is_left_out() -> None:
    x, residual, weight = (torch.randn(2, 4, requires_grad=True) for _ in range(3))
    _, total = ops.add_rms_norm(x, residual, weight[0], 1e-6)
    dx, dresidual, dweight = torch.autograd.grad(
        total.sum(), (x, residual, weight), allow_unused=True
    )
    assert torch.equal(dx, torch.ones_like(x))
    assert torch.equal(dresidual, dx)
    assert dweight is None or not dweight.any()
    normed, _ = ops.add_rms_norm(x, residual, None, 1e-6)
    (ours,) = torch.autograd.grad(normed.pow(3).sum(), x)
    reference = custom_op.record("rms_norm").op.reference
    (theirs,) = torch.autograd.grad(reference(x + residual, None, 1e-6).pow(3).sum(), x)
    torch.testing.assert_close(ours, theirs)


def test_every_result_passes_its_gradient_on() -> None:
    """Gradients of both results add up in what both are made of."""
    x, residual = (torch.randn(2, 4, requires_grad=True) for _ in range(2))
    reference = custom_op.record("add_rms_norm").op.reference

    def both(function: Any) -> Any:
        normed, total = function(x, residual, None, 1e-6)
        return torch.autograd.grad(normed.pow(3).sum() + total.exp().sum(), (x, residual))

    for ours, theirs in zip(both(ops.add_rms_norm), both(reference), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_one_tensor_in_two_places_gets_both_gradients() -> None:
    x = torch.randn(2, 4, requires_grad=True)
    reference = custom_op.record("silu_mul").op.reference
    (ours,) = torch.autograd.grad(ops.silu_mul(x, x).sum(), x)
    (theirs,) = torch.autograd.grad(reference(x, x).sum(), x)
    wide = x.detach().double().requires_grad_()
    (exact,) = torch.autograd.grad(oracle.float64(reference)(wide, wide).sum(), wide)
    verdict = oracle.within_budget(ours, exact, theirs)
    assert verdict, str(verdict)


def test_only_inputs_are_saved() -> None:
    x, weight = torch.randn(2, 4, requires_grad=True), torch.ones(4, requires_grad=True)
    saved: list[torch.Tensor] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        ops.rms_norm(x, weight, 1e-6)
    assert [t.data_ptr() for t in saved] == [x.data_ptr(), weight.data_ptr()]


def test_an_input_changed_in_place_is_noticed() -> None:
    x = torch.randn(2, 4, requires_grad=True)
    hidden = x * 1
    y = ops.rms_norm(hidden, None, 1e-6)
    hidden.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_expanded_and_transposed_gradients() -> None:
    x = torch.randn(3, 4, requires_grad=True)
    (ours,) = torch.autograd.grad(ops.rms_norm(x, None, 1e-6).t(), x, torch.ones(1).expand(4, 3))
    reference = custom_op.record("rms_norm").op.reference
    (theirs,) = torch.autograd.grad(reference(x, None, 1e-6).t(), x, torch.ones(1).expand(4, 3))
    assert torch.equal(ours, theirs)


def test_double_backward_is_refused_only_when_it_happens() -> None:
    x = torch.randn(2, 4, requires_grad=True)
    (gradient,) = torch.autograd.grad(
        ops.rms_norm(x, None, 1e-6).pow(2).sum(), x, create_graph=True
    )
    assert gradient.requires_grad
    with pytest.raises(NotImplementedError, match=r"double backward. is not available in this ver"):
        gradient.sum().backward()


FORWARD_MODE = "tilegym.rms_norm: forward-mode differentiation is not available in this version"


@pytest.mark.parametrize("requires_grad", (True, False))
def test_forward_mode_is_refused(requires_grad: bool) -> None:
    x = torch.randn(2, 4, requires_grad=requires_grad)
    with forward_ad.dual_level():
        ops.rms_norm(x, None, 1e-6)  # no tangent: nothing to refuse
        dual = forward_ad.make_dual(x, torch.ones_like(x))
        with pytest.raises(NotImplementedError, match=FORWARD_MODE):
            ops.rms_norm(dual, None, 1e-6)


def test_function_transforms_differentiate_the_reference() -> None:
    x = torch.randn(2, 4)
    ours = torch.func.grad(lambda x: ops.rms_norm(x, None, 1e-6).pow(3).sum())(x)
    reference = custom_op.record("rms_norm").op.reference
    theirs = torch.func.grad(lambda x: reference(x, None, 1e-6).pow(3).sum())(x)
    assert torch.equal(ours, theirs)
    with pytest.raises(NotImplementedError, match=FORWARD_MODE):
        torch.func.jvp(lambda x: ops.rms_norm(x, None, 1e-6), (x,), (x,))


def test_no_graph_without_grad_mode() -> None:
    x = torch.randn(2, 4, requires_grad=True)
    with torch.no_grad():
        assert not ops.rms_norm(x, None, 1e-6).requires_grad
    assert ops.rms_norm(x, None, 1e-6).grad_fn.name() == "tilegym_rms_normBackward"
