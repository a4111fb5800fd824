"""Where linear_cross_entropy fires: losses as people write them, and what must keep its logits."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import tile_backend
from tile_backend.inductor import without_codegen
from tile_backend.lowering import oracle
from tile_backend.lowering.budget import within_budget


def loss_only(hidden: Any, weight: Any, labels: Any) -> Any:
    return F.cross_entropy(F.linear(hidden, weight).view(-1, 50), labels.view(-1))


def transformers_loss(hidden: Any, weight: Any, labels: Any) -> Any:
    logits = F.linear(hidden, weight).float()
    shifted = F.pad(labels, (0, 1), value=-100)[..., 1:].contiguous()
    loss = F.cross_entropy(
        logits.view(-1, 50), shifted.view(-1), ignore_index=-100, reduction="sum"
    )
    return loss / 7


def shifted_logits(hidden: Any, weight: Any, labels: Any) -> Any:
    logits = F.linear(hidden, weight)[..., :-1, :].contiguous()
    return torch.nn.CrossEntropyLoss()(logits.view(-1, 50).float(), labels[..., 1:].reshape(-1))


def negative_log_likelihood(hidden: Any, weight: Any, labels: Any) -> Any:
    logits = (hidden @ weight.t()).float()
    return F.nll_loss(F.log_softmax(logits, -1).view(-1, 50), labels.view(-1), ignore_index=-1)


def scaled(hidden: Any, weight: Any, labels: Any) -> Any:
    logits = F.linear(hidden, weight) / 8.0
    return F.cross_entropy(logits.view(-1, 50), labels.view(-1), ignore_index=0)


def scaled_in_autocast(hidden: Any, weight: Any, labels: Any) -> Any:
    with torch.autocast("cpu", torch.bfloat16):
        return scaled(hidden, weight, labels)


SPELLED = (
    loss_only,
    transformers_loss,
    shifted_logits,
    negative_log_likelihood,
    scaled_in_autocast,
)


def inputs(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    hidden, weight = (
        torch.randn(*s, generator=generator).to(dtype) for s in ((2, 5, 16), (50, 16))
    )
    return hidden, weight, torch.randint(50, (2, 5), generator=generator)


@contextlib.contextmanager
def compiled(function: Any, **options: Any) -> Iterator[Any]:
    torch._dynamo.reset()
    given = {f"tilegym.{name}": value for name, value in options.items()}
    with without_codegen():
        yield torch.compile(function, backend="tilegym", options=given)


def counts() -> dict[str, int]:
    report = tile_backend.last_report()
    assert report is not None
    return dict(report.counts)


@pytest.mark.parametrize("function", SPELLED, ids=lambda f: f.__name__)
def test_losses_as_people_write_them(function: Any) -> None:
    dtype = torch.bfloat16 if function is transformers_loss else torch.float32
    hidden, weight, labels = inputs(dtype)
    leaves = [hidden.requires_grad_(), weight.requires_grad_()]

    def run(loss: Any) -> list[torch.Tensor]:
        return [loss.detach(), *torch.autograd.grad(loss, leaves)]

    with compiled(function, kernels="always") as ours:
        found = run(ours(hidden, weight, labels))
    assert counts() == {"linear_cross_entropy": 1}
    wide = [t.detach().double().requires_grad_() for t in leaves]
    exactly = scaled if function is scaled_in_autocast else function
    loss = oracle.float64(exactly)(*wide, labels)
    exact = [loss.detach(), *torch.autograd.grad(loss, wide)]
    verdict = within_budget(found, exact, run(function(*leaves, labels)))
    assert verdict, str(verdict)


def used_inside(hidden: Any, weight: Any, labels: Any) -> Any:
    logits = F.linear(hidden, weight)
    loss = F.cross_entropy(logits.view(-1, 50), labels.view(-1))
    return loss, (logits.argmax(-1) == labels).float().mean()


def flattened_and_used(hidden: Any, weight: Any, labels: Any) -> Any:
    """What reads them reads a view, which the loss reads as well."""
    flat = F.linear(hidden, weight).view(-1, 50)
    loss = F.cross_entropy(flat, labels.view(-1))
    return loss, (flat.argmax(-1) == labels.view(-1)).float().mean()


def temperature_that_is_learned(hidden: Any, weight: Any, labels: Any) -> Any:
    logits = F.linear(hidden, weight) * weight[0, 0]
    return F.cross_entropy(logits.view(-1, 50), labels.view(-1))


def noise_on_the_logits(hidden: Any, weight: Any, labels: Any) -> Any:
    logits = F.linear(hidden, weight) + hidden.sum()
    return F.cross_entropy(logits.view(-1, 50), labels.view(-1))


@pytest.mark.parametrize(
    "function", (used_inside, flattened_and_used, temperature_that_is_learned, noise_on_the_logits)
)
def test_what_reads_or_changes_the_logits_keeps_them(function: Any) -> None:
    """Even where they may be dropped: nobody said that a metric may."""
    with compiled(function, kernels="always", drop_logits=True) as ours:
        found = ours(*inputs())
    assert counts() == {"cross_entropy": 1}
    wide = [t.double() if t.is_floating_point() else t for t in inputs()]
    verdict = within_budget(found, oracle.float64(function)(*wide), function(*inputs()))
    assert verdict, str(verdict)


def test_a_loss_per_token_is_not_trained_without_logits() -> None:
    def per_token(hidden: Any, weight: Any, labels: Any) -> Any:
        logits = F.linear(hidden, weight)
        return F.cross_entropy(logits.transpose(1, 2), labels, reduction="none")

    hidden, weight, labels = inputs()
    with compiled(per_token, kernels="always") as ours:
        assert torch.allclose(ours(hidden, weight, labels), per_token(hidden, weight, labels))
    assert counts() == {"linear_cross_entropy": 1}
    with compiled(per_token, kernels="always") as ours:
        ours(hidden.requires_grad_(), weight, labels)
    assert counts() == {"cross_entropy": 1}


def test_one_compile_serves_all_lengths() -> None:
    with compiled(transformers_loss, kernels="always") as ours:
        for length in (5, 9, 300):
            hidden = torch.randn(2, length, 16)
            labels = torch.randint(50, (2, length))
            for tensor in (hidden, labels):
                torch._dynamo.mark_dynamic(tensor, 1)
            weight = inputs()[1]
            found, theirs, exact = (
                torch.autograd.grad(loss(hidden.to(w), w.requires_grad_(), labels), w)
                for loss, w in (
                    (ours, weight),
                    (transformers_loss, weight),
                    (oracle.float64(transformers_loss), weight.detach().double()),
                )
            )
            assert within_budget(found, exact, theirs)
        report = tile_backend.last_report()
        assert report is not None
        assert len(report.graphs) == 1


def test_the_interpreted_kernels_give_the_same() -> None:
    hidden, weight, labels = inputs(torch.bfloat16)
    with compiled(transformers_loss, kernels="interpret") as ours:
        leaves = [hidden.requires_grad_(), weight.requires_grad_()]
        loss = ours(*leaves, labels)
        found = [loss.detach(), *torch.autograd.grad(loss, leaves)]
    report = tile_backend.last_report()
    assert report is not None
    assert [site.decision for site in report.sites] == ["interpreted"]
    eagerly = transformers_loss(*leaves, labels)
    theirs = [eagerly.detach(), *torch.autograd.grad(eagerly, leaves)]
    wide = [t.detach().double().requires_grad_() for t in leaves]
    exactly = oracle.float64(transformers_loss)(*wide, labels)
    verdict = within_budget(found, [exactly.detach(), *torch.autograd.grad(exactly, wide)], theirs)
    assert verdict, str(verdict)
