"""NaN in an operand of masked attention is where eager has it, also where the mask is respelled.

And nowhere else: with `is_causal` the kernel multiplies -inf by the scale.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

import tile_backend
from tile_backend.inductor import without_codegen
from tile_backend.lowering import oracle
from tile_backend.lowering.budget import within_budget
from tile_backend.report import Report

Tensor = torch.Tensor
LENGTH = 6


def causal(length: int) -> Tensor:
    return torch.ones(length, length, dtype=torch.bool).tril()


def of_booleans(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, attn_mask=causal(q.shape[2]))


def of_numbers(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    mask = torch.full((q.shape[2], q.shape[2]), float("-inf"), dtype=q.dtype).triu(1)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def of_shared_heads(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    k, v = (x[:, :1].repeat_interleave(2, 1) for x in (k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=causal(q.shape[2]))


def added_by_hand(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    mask = torch.full((q.shape[2], q.shape[2]), torch.finfo(q.dtype).min, dtype=q.dtype).triu(1)
    return torch.softmax(q @ k.transpose(-2, -1) * 0.25 + mask, -1) @ v


def filled_by_hand(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = (q @ k.transpose(-2, -1) * 0.25).masked_fill(~causal(q.shape[2]), float("-inf"))
    return torch.softmax(scores, -1) @ v


def in_a_window(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    places = torch.arange(q.shape[2])
    apart = places[:, None] - places[None]
    mask = (apart >= 0) & (apart < 64)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


PROGRAMS = (of_booleans, of_numbers, of_shared_heads, added_by_hand, filled_by_hand, in_a_window)


def operands(program: Callable[..., Tensor], dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    length = 300 if program is in_a_window else LENGTH
    drawn = (torch.randn(1, 2, length, 8, generator=generator) for _ in range(3))
    return [x.to(dtype).requires_grad_() for x in drawn]


def run(program: Callable[..., Tensor], inputs: list[Tensor]) -> list[Tensor]:
    """The result, and the gradients."""
    result = program(*inputs)
    return [result.detach(), *torch.autograd.grad(result.sum(), inputs)]


def compiled(
    program: Callable[..., Tensor], inputs: list[Tensor], kernels: str
) -> tuple[list[Tensor], Report]:
    """What it gives with these kernels, and what was found in it."""
    torch._dynamo.reset()
    with without_codegen():
        options = {"tilegym.kernels": kernels}
        found = run(torch.compile(program, backend="tilegym", options=options), inputs)
    report = tile_backend.last_report()
    assert report is not None
    return found, report


def respelled(program: Callable[..., Tensor], inputs: list[Tensor]) -> list[Tensor]:
    found, report = compiled(program, inputs, "auto")
    (site,) = report.sites
    assert site.fusion == "attention"
    assert site.decision is not None
    assert site.decision.respelled
    return found


@pytest.mark.parametrize("place", range(3), ids=("q", "k", "v"))
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
def test_nan_stays_where_eager_has_it(program: Callable[..., Tensor], place: int) -> None:
    inputs = operands(program, torch.float32)
    with torch.no_grad():
        inputs[place][0, 0, 2, 3] = float("nan")
    eager, ours = run(program, inputs), respelled(program, inputs)
    assert eager[0].isnan().any()
    assert torch.equal(eager[0].isnan(), ours[0].isnan())
    if program is not in_a_window:  # docs/limits.md: gradients of queries in other blocks
        for theirs, mine in zip(eager[1:], ours[1:], strict=True):
            assert torch.equal(theirs.isnan().any(-1), mine.isnan().any(-1))


def scaled(scores: Tensor, scale: float, v: Tensor) -> Tensor:
    hidden = ~causal(scores.shape[-1])
    return torch.softmax((scores * scale).masked_fill(hidden, -math.inf), -1) @ v


SCALED: dict[str, Callable[[Tensor, Tensor, Tensor, float], Tensor]] = {
    "call": lambda q, k, v, scale: F.scaled_dot_product_attention(
        q, k, v, attn_mask=causal(q.shape[2]), scale=scale
    ),
    "scores": lambda q, k, v, scale: scaled(q @ k.transpose(-2, -1), scale, v),
    "query": lambda q, k, v, scale: scaled((q * scale) @ k.transpose(-2, -1), 1.0, v),
    "added": lambda q, k, v, scale: (
        torch.softmax(
            (q @ k.transpose(-2, -1)) * scale
            + torch.full((q.shape[2], q.shape[2]), -math.inf).triu(1),
            -1,
        )
        @ v
    ),
    "window": lambda q, k, v, scale: F.scaled_dot_product_attention(
        q, k, v, attn_mask=causal(q.shape[2]) & ~causal(q.shape[2]).tril(-64), scale=scale
    ),
}


@pytest.mark.sampled(4)
@pytest.mark.parametrize("kernels", ("auto", "always", "interpret"))
@pytest.mark.parametrize("scale", (-0.5, 0.0, -0.0, 1e-40))
@pytest.mark.parametrize("form", SCALED)
def test_a_scale_that_is_not_positive_hides_no_less(form: str, scale: float, kernels: str) -> None:
    inputs = operands(in_a_window if form == "window" else of_booleans, torch.float32)
    if kernels == "interpret":
        inputs = [x[:, :, :70].detach().requires_grad_() for x in inputs]

    def program(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return SCALED[form](q, k, v, scale)

    found, report = compiled(program, inputs, kernels)
    assert [site.fusion for site in report.sites] == ["attention"]
    if kernels != "auto":
        assert report.counts == {"attention": 1}
    with oracle.Float64():
        exact = run(program, oracle.widened(inputs))
    verdict = within_budget(found, exact, run(program, inputs))
    assert verdict, str(verdict)


@pytest.mark.parametrize("kernels", ("auto", "always"))
@pytest.mark.parametrize("form", ("causal", "three dimensions", "all seen"))
@pytest.mark.parametrize("scale", (-0.5, 0.0, -0.0, math.nan, math.inf, -math.inf))
def test_a_scale_that_torch_gives_no_product_for(form: str, scale: float, kernels: str) -> None:
    """What eager gives, in all its peculiarity: NaN for a causal scale of 0, numbers for NaN."""
    inputs = operands(of_booleans, torch.float32)
    if form == "three dimensions":
        inputs = [x.detach().flatten(0, 1).requires_grad_() for x in inputs]

    def program(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, is_causal=form != "all seen", scale=scale)

    torch._dynamo.reset()
    with without_codegen():
        options = {"tilegym.kernels": kernels}
        found = run(torch.compile(program, backend="tilegym", options=options), inputs)
    wanted = run(program, inputs)
    report = tile_backend.last_report()
    assert report is not None
    (site,) = report.sites
    if form == "all seen" and math.isfinite(scale):
        assert report.counts == {"attention": 1}
    else:
        assert site.reason is not None
        assert f"for a scale of {scale}" in site.reason.text
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, equal_nan=True)


@pytest.mark.parametrize("kernels", ("auto", "always"))
def test_what_is_hidden_by_a_number_has_the_weight_where_all_that_is_seen_is_lower(
    kernels: str,
) -> None:
    """A score of -inf is lower than the lowest number: the gradients are those of a mean."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 1, 7, 8, generator=generator) for _ in range(3))
    k[0, 0, 0, 2], q[0, 0, 0, 2] = math.inf, -1.0  # the score of query and key 0 is -inf
    inputs = [x.requires_grad_() for x in (q, k, v)]

    def program(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        lowest = torch.full((7, 7), torch.finfo(q.dtype).min).triu(1)
        return torch.softmax(q @ k.mT * 0.3 + lowest, -1) @ v

    found, report = compiled(program, inputs, kernels)
    assert [site.bindings["mask"] for site in report.sites] == ["causal"]
    for one, other in zip(found, run(program, inputs), strict=True):
        torch.testing.assert_close(one, other, equal_nan=True)


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
def test_numbers_are_the_kernels_bit_for_bit(dtype: torch.dtype) -> None:
    inputs = operands(of_booleans, dtype)
    found = respelled(of_booleans, inputs)
    wanted = run(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True), inputs)
    assert all(map(torch.equal, found, wanted))


def test_a_call_that_is_causal_by_itself_gives_what_it_gave() -> None:
    def program(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        k, v = (x[:, :1].repeat_interleave(2, 1) for x in (k, v))
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    inputs = operands(program, torch.float32)
    with torch.no_grad():
        inputs[0][0, 0, 2, 3] = float("nan")
    torch._dynamo.reset()
    with without_codegen():
        ours = torch.compile(program, backend="tilegym")(*inputs)
    assert torch.equal(program(*inputs).isnan(), ours.isnan())


@pytest.mark.parametrize("kernels", ("auto", "always"))
def test_a_padded_causal_mask_of_numbers_keeps_nan_that_it_hides(kernels: str) -> None:
    """It is padding and a causal rule to us, and to SDPA still numbers that are added."""

    def program(q: Tensor, k: Tensor, v: Tensor, pad: Tensor) -> Tensor:
        both = causal(q.shape[2]) & pad[:, None, None, :]
        mask = torch.where(both, 0.0, torch.finfo(q.dtype).min)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)

    inputs = [x.detach() for x in operands(of_booleans, torch.float32)]
    inputs[1][0, 0, 3, 3] = float("nan")
    inputs.append(torch.tensor([[True, True, True, False, True, True]]))
    torch._dynamo.reset()
    with without_codegen():
        options = {"tilegym.kernels": kernels}
        ours = torch.compile(program, backend="tilegym", options=options)(*inputs)
    report = tile_backend.last_report()
    assert report is not None
    (site,) = report.sites
    assert site.bindings["mask"] == "causal+padding"
    assert torch.equal(program(*inputs).isnan(), ours.isnan())
