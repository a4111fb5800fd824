"""Between forward and backward the caller writes to what a compiled function was given or gave.

What the original code would have kept is kept: gradients are eager's, or torch raises as it does
for eager. A view that is made in a graph has a version of its own, of which torch asks nothing.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable

import pytest
import torch
import torch._dynamo
import torch.nn.functional as F

import tile_backend
from tests.core_graph import capture, names_of_ops
from tile_backend.inductor import without_codegen

Tensor = torch.Tensor
Program = Callable[[Tensor, Tensor, Tensor], Tensor]


def causal() -> Tensor:
    places = torch.arange(4)
    return places[:, None] >= places


def repeated(x: Tensor) -> Tensor:
    """[1, 2, 4, 16] for four heads, as Transformers does it."""
    return x[:, :, None].expand(1, 2, 2, 4, 16).reshape(1, 4, 4, 16)


def grouped(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, repeated(k), repeated(v), attn_mask=causal())


def cloned(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    k, v = (x.clone().repeat_interleave(2, 1) for x in (k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=causal())


def grouped_projections(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return grouped(q, k.transpose(1, 2), v.transpose(1, 2))


def grouped_cache(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return grouped(q, k[:, :, :4], v[:, :, :4])


def grouped_pair(q: Tensor, pair: Tensor, _: Tensor) -> Tensor:
    return grouped(q, pair[0], pair[1])


def scaled_query(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = (k * 0.25) @ k.mT.contiguous() + torch.full((4, 4), -torch.inf).triu(1)
    return torch.softmax(scores, -1) @ v.clone() * q[:, :2]


def added_mask(q: Tensor, mask: Tensor, _: Tensor) -> Tensor:
    return torch.softmax(q @ q.mT * 0.25 + mask[:, :1, :, :4], -1) @ q


def added_mask_of_rows(q: Tensor, mask: Tensor, _: Tensor) -> Tensor:
    return torch.softmax(q[0] @ q[0].mT * 0.25 + mask[0, 0, :, :4], -1) @ q[0]


def padded(q: Tensor, pad: Tensor, _: Tensor) -> Tensor:
    """The op reads the padding, the original keeps the mask that is made of it."""
    mask = causal() & pad[:, None, None, :4]
    return F.scaled_dot_product_attention(q, q * 0.5, q * 0.5, attn_mask=mask)


def added_residual(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    total = k + v
    return total * torch.rsqrt(total.pow(2).mean(-1, keepdim=True) + 1e-6) * q[0, 0, 0] + total


SIZES: dict[Program, tuple[int, ...]] = {
    grouped: (1, 2, 4, 16),
    cloned: (1, 2, 4, 16),
    grouped_projections: (1, 4, 2, 16),
    grouped_cache: (1, 2, 8, 16),
    grouped_pair: (2, 1, 2, 4, 16),
    scaled_query: (1, 2, 4, 16),
    added_mask: (1, 1, 4, 16),
    added_mask_of_rows: (1, 1, 4, 16),
    padded: (1, 8),
    added_residual: (1, 2, 4, 16),
}


def title(program: Program) -> str:
    return program.__name__


def leaves(size: tuple[int, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    sizes = ((1, 4, 4, 16), size, size)
    return [torch.randn(s, generator=generator).requires_grad_() for s in sizes]


def trained(function: Program, program: Program) -> list[Tensor | None]:
    """Gradients, where k and v are buffers that are used again before the backward."""
    given = leaves(SIZES[program])
    q, k, v = (x * 1 for x in given)
    if program is padded:
        k = k > 0
    loss = function(q, k, v).square().sum()
    with torch.no_grad() if program is added_mask else torch.enable_grad():
        k.mul_(k.roll(1, -1))
        v.mul_(v.roll(1, -1))
    return list(torch.autograd.grad(loss, given, allow_unused=True))


@pytest.mark.parametrize("kernels", ("auto", "always", "interpret"))
@pytest.mark.parametrize("program", SIZES, ids=title)
def test_gradients_are_those_of_what_was_read(program: Program, kernels: str) -> None:
    torch._dynamo.reset()
    ours = torch.compile(program, backend="tilegym", options={"tilegym.kernels": kernels})
    with without_codegen():
        found = trained(ours, program)
    report = tile_backend.last_report()
    assert report is not None
    if kernels != "auto":
        fusion = "add_rms_norm" if program is added_residual else "attention"
        assert report.counts == {fusion: 1}
    for one, other in zip(found, trained(program, program), strict=True):
        torch.testing.assert_close(one, other)


def test_gradients_of_generated_code() -> None:
    """Inductor leaves out copies that change no stride, and with them what the backward reads."""
    torch._dynamo.reset()
    found = trained(torch.compile(grouped, backend="tilegym"), grouped)
    for one, other in zip(found, trained(grouped, grouped), strict=True):
        torch.testing.assert_close(one, other)


def norm(x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


VIEWS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "rms_norm": lambda x, r: norm(x.view(2, 2, 16)),
    "layer_norm": lambda x, r: F.layer_norm(x.view(2, 2, 16), (16,)),
    "silu_mul": lambda x, r: F.silu(x[:, :8]) * x[:, 8:],
    "gelu_mul": lambda x, r: F.gelu(x.view(2, 2, 16)) * r.view(2, 2, 16),
    "softmax": lambda x, r: torch.softmax(x.view(2, 2, 16), -1) * 2,
    "cross_entropy": lambda x, r: F.cross_entropy(x[:3], torch.arange(3)),
}


@pytest.mark.sampled(3)
@pytest.mark.parametrize("kernels", ("always", "interpret"))
@pytest.mark.parametrize("fusion", VIEWS)
def test_a_write_to_what_a_view_is_of_is_seen(fusion: str, kernels: str) -> None:
    torch._dynamo.reset()
    ours = torch.compile(
        VIEWS[fusion], backend="tilegym", options={"tilegym.kernels": kernels}, dynamic=False
    )
    x, r = (torch.randn(4, 16, requires_grad=True) * 1 for _ in range(2))
    result = ours(x, r)
    x.mul_(2.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        result.sum().backward()
    report = tile_backend.last_report()
    assert report is not None
    assert report.counts == {fusion: 1}


def within(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Keys and values are made in the graph: nobody else can write to them."""
    return grouped(q, k.sin(), v.sin())


def plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, q + k.mean(), q + v.mean(), is_causal=True)


@pytest.mark.parametrize(
    ("program", "trains", "copies"),
    (
        (grouped, True, 2),
        (grouped, False, 0),
        (within, True, 0),
        (plain, True, 0),
        (added_mask, True, 1),
    ),
)
def test_no_more_is_copied_than_has_to_be(program: Program, trains: bool, copies: int) -> None:
    given = [x.detach().requires_grad_(trains) for x in leaves(SIZES.get(program, (1, 2, 4, 16)))]
    if program is added_mask:
        given[1].requires_grad_(False)
    names = inspect.signature(program).parameters
    captured = capture(program, dict(zip(names, given, strict=True)))
    ours, sites = captured.rewritten()
    assert names_of_ops(ours) == [*["copy"] * copies, "attention"]
    assert len(str(sites[0].bindings.get("copied", "")).split()) == copies
