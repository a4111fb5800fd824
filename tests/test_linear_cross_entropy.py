"""The last linear layer and its loss: what the op gives, and that no whole logits exist."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from tests.op_samples import Labels  # noqa: F401 - defines the ops
from tile_backend.lowering import composition, custom_op, oracle
from tile_backend.lowering.budget import within_budget
from tile_backend.patterns import _linear_cross_entropy_ops as ops

TOKENS, WIDTH, CLASSES = 600, 64, 1000
"""Three chunks, the last one shorter."""


class Largest(TorchDispatchMode):
    """Notes the most elements of any tensor that is made inside it."""

    most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, torch.Tensor):
                self.most = max(self.most, tensor.numel())
        return result


def material(
    dtype: torch.dtype = torch.float32, tokens: int = TOKENS, classes: int = CLASSES
) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    labels = torch.randint(classes, (tokens,), generator=generator)
    labels[1::7] = -100
    return {
        "hidden": torch.randn(tokens, WIDTH, generator=generator).to(dtype),
        "weight": (0.3 * torch.randn(classes, WIDTH, generator=generator)).to(dtype),
        "bias": (0.3 * torch.randn(classes, generator=generator)).to(dtype),
        "labels": labels,
    }


def eager(**given: Any) -> Any:
    """The layer and its loss as torch has them."""
    return ops.linear_cross_entropy(**given)


LEAVES = ("hidden", "weight", "bias")


def trained(function: Callable[..., Any], given: dict[str, Any], factor: float = 1.0) -> list[Any]:
    """The loss, and the gradients of hidden, weight and bias of it times the factor."""
    leaves = [given[name] for name in LEAVES if given[name].requires_grad]
    loss = function(**given)
    return [loss.detach(), *torch.autograd.grad(loss * factor, leaves)]


def leaf(given: dict[str, Any], dtype: torch.dtype | None = None) -> dict[str, Any]:
    return {
        name: value.detach().to(dtype or value.dtype).requires_grad_() if name in LEAVES else value
        for name, value in given.items()
    }


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16, torch.float16), ids=str)
@pytest.mark.parametrize("reduction", ("mean", "sum"))
def test_chunks_sum_up_to_the_whole(dtype: torch.dtype, reduction: str) -> None:
    """Gradients over three chunks, scaled as a GradScaler would, within the budget of eager."""
    assert ops.chunk_rows(WIDTH) * 2 < TOKENS < ops.chunk_rows(WIDTH) * 3
    options = {"reduction": reduction, "label_smoothing": 0.1, "softcap": 5.0}
    given, reference = material(dtype), ops.linear_cross_entropy
    factor = 64.0 if reduction == "mean" else 0.125
    op = custom_op.record("linear_cross_entropy").overload

    def of(function: Callable[..., Any], **also: Any) -> Callable[..., Any]:
        return lambda **tensors: function(**tensors, **options, **also)

    ours = trained(of(op), leaf(given), factor)
    theirs = trained(of(reference), leaf(given), factor)
    wide = leaf(given, torch.float64)
    exact = trained(oracle.float64(of(reference)), wide, factor)
    verdict = within_budget(ours, exact, theirs)
    assert verdict, str(verdict)


@pytest.mark.parametrize("needed", ("hidden", "weight", "bias", "hidden,bias", "weight,bias"))
def test_only_wanted_gradients_are_computed(needed: str) -> None:
    """A frozen layer has none of its own, a frozen trunk gets none; they are what all give."""
    given = material()
    op = custom_op.record("linear_cross_entropy_with_gradients").overload
    every = op(**given, gradients="hidden,weight,bias")
    some = op(**given, gradients=needed)
    assert torch.equal(some[0], every[0])
    for name, one, all_of_them in zip(LEAVES, some[1:], every[1:], strict=True):
        assert one.numel() == (all_of_them.numel() if name in needed.split(",") else 0)
        assert one.numel() == 0 or torch.equal(one, all_of_them)


def test_a_frozen_layer_asks_for_no_gradient_of_its_weight() -> None:
    given = material()
    given["hidden"].requires_grad_()
    loss = torch.ops.tilegym.linear_cross_entropy(**given)
    assert loss.grad_fn.scalars[-1] == "hidden"  # type: ignore[union-attr]
    (ours,) = torch.autograd.grad(loss, given["hidden"])
    theirs = trained(eager, leaf(given))[1]
    exact = trained(oracle.float64(eager), leaf(given, torch.float64))[1]
    assert within_budget(ours, exact, theirs)


@pytest.mark.parametrize("gradients", ("", "hidden,weight,bias"))
def test_no_more_than_a_chunk_of_logits_exists(gradients: str) -> None:
    """Nothing that is made is larger than the largest of weight, hidden and a chunk of logits."""
    given = material(tokens=1024, classes=4000)
    name = "linear_cross_entropy_with_gradients" if gradients else "linear_cross_entropy"
    record = custom_op.record(name)
    arguments = record.signature.bind((), {**given, "gradients": gradients})
    outputs = record.op.outputs(**arguments)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    with Largest() as seen:
        composition.on_references(record, arguments, outputs)
    chunk = ops.chunk_rows(WIDTH) * 4000
    assert chunk <= seen.most <= chunk, "one chunk, and not the logits of all tokens"
    assert seen.most * 4 == 1024 * 4000


def test_a_loss_is_the_same_however_often() -> None:
    """Sums have a fixed order."""
    given = material(torch.bfloat16)
    op = custom_op.record("linear_cross_entropy_with_gradients").overload
    first, second = (op(**given, gradients="hidden,weight,bias") for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", ("mean", "sum"))
@pytest.mark.parametrize("tokens", (5, 0))
def test_no_label_and_no_token(tokens: int, reduction: str) -> None:
    """A mean over nothing is NaN and its gradient 0, as in eager."""
    given = material(tokens=tokens)
    given["labels"] = torch.full_like(given["labels"], -100)

    def of(function: Callable[..., Any]) -> list[Any]:
        return trained(lambda **t: function(**t, reduction=reduction), leaf(given))

    ours, theirs = of(torch.ops.tilegym.linear_cross_entropy), of(eager)
    assert ours[0].isnan() == theirs[0].isnan() == (reduction == "mean")
    for a, b in zip(ours[1:], theirs[1:], strict=True):
        assert a.shape == b.shape
        assert (a == 0).all()
        assert (b == 0).all()


@pytest.mark.parametrize("label", (CLASSES, -3, 2**40))
@pytest.mark.parametrize("op", ("linear_cross_entropy", "cross_entropy"))
def test_a_label_that_is_no_class_is_an_error(op: str, label: int) -> None:
    given = material(tokens=5)
    given["labels"][2] = label
    if op == "cross_entropy":
        logits = F.linear(given["hidden"], given["weight"])
        given = {"logits": logits, "labels": given["labels"]}
    record = custom_op.record(op)
    for overload in (record.overload, record.interpreted):
        # Where the op cannot, its reference runs, and raises what eager raises.
        words = "a label is not one of the 1000 classes|Target .* is out of bounds"
        with pytest.raises((RuntimeError, IndexError), match=words):
            overload(**given)


def test_nan_stays_where_eager_has_it() -> None:
    given = material(tokens=8)
    given["hidden"][3, 2] = torch.nan
    given["hidden"][1, 0] = torch.nan  # its label is ignored
    ours = trained(torch.ops.tilegym.linear_cross_entropy, leaf(given))
    theirs = trained(eager, leaf(given))
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a.isnan(), b.isnan())
