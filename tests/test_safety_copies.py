"""A copy is not its source: the source is written to before the copy is read.

Every way to copy, every way to write, every fusion that reads a copy. The copy is an operand like
any other, so each site is rewritten, and reads the values from before the write.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tests.models.check import assert_like_eager
from tests.norm_program import norm, x_and_more
from tests.writers import WRITERS

Tensor = torch.Tensor
Copy = Callable[[Tensor], Tensor]

COPIES: dict[str, Copy] = {
    "clone": lambda x: x.clone(),
    "torch_clone": torch.clone,
    "detached": lambda x: x.detach().clone(),
    "to_copy": lambda x: x.to(x.dtype, copy=True),
    "transposed_and_laid_out": lambda x: x.t().contiguous().t(),
    "twice_transposed": lambda x: x.t().clone().t().contiguous(),
    "times_one": lambda x: x * 1,
    "times_one_float": lambda x: 1.0 * x,
    "over_one": lambda x: x / 1,
    "plus_zero": lambda x: x + 0,
    "minus_zero": lambda x: x - 0,
    "twice_negative": lambda x: x.neg().neg(),
    "to_the_first": lambda x: x**1,
    "cat_of_one": lambda x: torch.cat([x]),
    "cat_of_halves": lambda x: torch.cat([x[:2], x[2:]]),
    "cat_of_chunks": lambda x: torch.cat(x.chunk(2, -1), -1),
    "stack_of_one": lambda x: torch.stack([x])[0],
    "stack_of_rows": lambda x: torch.stack(x.unbind(0)),
    "slice": lambda x: x[:, :].clone(),
    "reshaped": lambda x: x.view(2, 2, -1).clone().view(4, -1),
    "repeated_once": lambda x: x.repeat(1, 1),
    "interleaved_once": lambda x: x.repeat_interleave(1, 0),
    "expanded": lambda x: x[None].expand(1, -1, -1).clone()[0],
    "reshaped_transposed": lambda x: x.t().reshape(-1).view(x.shape[1], -1).t(),
    "without_dropout": lambda x: F.dropout(x.clone(), 0.0),
    "filled_nowhere": lambda x: x.masked_fill(torch.zeros(4, 1, dtype=torch.bool), 1.0),
    "padded_by_none": lambda x: F.pad(x, (0, 0)),
    "rolled": lambda x: x.roll(1, 0).roll(-1, 0),
    "flipped": lambda x: x.flip(0).flip(0),
    "indexed": lambda x: x[torch.arange(4)],
    "set_anew": lambda x: torch.empty_like(x).copy_(x),
}


def counts(program: Callable[..., Any], *inputs: Any, **settings: Any) -> dict[str, int]:
    return dict(assert_like_eager(program, *inputs, **settings).counts)


@pytest.mark.parametrize("copy", COPIES.values(), ids=COPIES)
def test_every_copy(copy: Copy) -> None:
    def program(x: Tensor, other: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        old = copy(x)
        x += other
        return norm(old, weight), norm(x, weight)

    assert counts(program, *x_and_more(4, 64)) == {"rms_norm": 2}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_every_writer(write: Callable[[Tensor, Tensor], object]) -> None:
    def program(x: Tensor, other: Tensor, weight: Tensor) -> Tensor:
        old = x.clone()
        write(x, other)
        return norm(old, weight)

    assert counts(program, *x_and_more(4, 64)) == {"rms_norm": 1}


def test_copies_of_two_versions_are_two_values() -> None:
    def program(x: Tensor, other: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
        first = x.clone()
        x += other
        second, third = x.clone(), x * 1
        return norm(first, weight), norm(second, weight), first * third, norm(third, weight)

    assert counts(program, *x_and_more(4, 64)) == {"rms_norm": 2}, "two of the three are one"


def test_three_versions_are_three_values() -> None:
    def program(x: Tensor, other: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
        found = [norm(x.clone(), weight)]
        for _ in range(2):
            x += other
            found.append(norm(x.clone(), weight))
        x.zero_()
        return tuple(found)

    assert counts(program, *x_and_more(4, 64)) == {"rms_norm": 3}


def test_a_view_from_before_the_write_is_read_after_it() -> None:
    def program(x: Tensor, other: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
        view, parts = x.view(2, 2, 64), x.chunk(2, -1)
        old, half = view.clone(), x[:, :32] * 1
        x += other
        gated = F.silu(parts[0]) * parts[1], F.silu(half) * parts[1]
        return norm(view, weight), norm(old, weight), *gated

    assert counts(program, *x_and_more(4, 64)) == {"rms_norm": 2, "silu_mul": 2}


def test_the_write_goes_through_another_input() -> None:
    def program(x: Tensor, view: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        old = x.clone()
        view.zero_()
        return norm(old, weight), norm(x, weight)

    x, _, weight = x_and_more(4, 64)
    assert counts(program, x, x[1:3, ::2], weight) == {"rms_norm": 2}


# --- every fusion ---------------------------------------------------------------------------------


def add_norm(x: Tensor, y: Tensor, other: Tensor) -> Tensor:
    return norm(x + y, torch.ones(x.shape[-1]))


def gate(x: Tensor, y: Tensor, other: Tensor) -> Tensor:
    return F.silu(x) * y


def gelu_gate(x: Tensor, y: Tensor, other: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh") * y


def layer_norm(x: Tensor, y: Tensor, other: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], y[0])


def rotated(x: Tensor, cos: Tensor, other: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    return x * cos + torch.cat((-x[:, half:], x[:, :half]), -1) * other.sin()


def attention(k: Tensor, v: Tensor, other: Tensor) -> Tensor:
    q = other.view(1, 2, 8, 16)
    causal = torch.ones(8, 8, dtype=torch.bool).tril()
    return F.scaled_dot_product_attention(
        q, k.view(1, 2, 8, 16), v.view(1, 2, 8, 16), attn_mask=causal
    )


def attention_by_hand(k: Tensor, v: Tensor, other: Tensor) -> Tensor:
    q, k, v = (t.view(1, 2, 8, 16) for t in (other, k, v))
    return torch.softmax(q @ k.transpose(-2, -1) * 0.25, -1) @ v


def repeated_attention(k: Tensor, v: Tensor, other: Tensor) -> Tensor:
    q = other.view(1, 4, 4, 16)
    k, v = (
        t.view(1, 2, 8, 16)[:, :, None].expand(1, 2, 2, 8, 16).reshape(1, 4, 8, 16) for t in (k, v)
    )
    return F.scaled_dot_product_attention(q, k, v)


def softmax(x: Tensor, bias: Tensor, other: Tensor) -> Tensor:
    return torch.softmax(x * 0.5 + bias, -1)


def loss(logits: Tensor, y: Tensor, other: Tensor) -> Tensor:
    labels = (other[:, 0] > 0).long()
    return F.cross_entropy(logits, labels) + y.sum()


FUSED: dict[str, Callable[..., Tensor]] = {
    "add_rms_norm": add_norm,
    "silu_mul": gate,
    "gelu_mul": gelu_gate,
    "layer_norm": layer_norm,
    "rotary": rotated,
    "attention": attention,
    "attention_by_hand": attention_by_hand,
    "repeated_attention": repeated_attention,
    "softmax": softmax,
    "cross_entropy": loss,
}
NAMES = {"attention_by_hand": "attention", "repeated_attention": "attention"}


@pytest.mark.parametrize("options", ({}, {"tilegym.kernels": "always"}), ids=("auto", "always"))
@pytest.mark.parametrize("name", FUSED)
def test_every_fusion(name: str, options: dict[str, Any]) -> None:
    def program(x: Tensor, y: Tensor, other: Tensor) -> Tensor:
        old_x, old_y = x.clone(), torch.cat([y])
        x.copy_(other)
        y.mul_(2)
        return FUSED[name](old_x, old_y, other)

    x, y, _ = x_and_more(4, 64)
    found = counts(program, x, y, (x + y).cos(), options=options)
    assert found.get(NAMES.get(name, name)) == 1, found


@pytest.mark.parametrize("name", FUSED)
def test_every_fusion_in_training(name: str) -> None:
    def program(x: Tensor, y: Tensor, other: Tensor) -> Tensor:
        kept_x, kept_y = x.sin(), y.cos()
        old_x, old_y = kept_x.clone(), torch.cat([kept_y])
        kept_x += other
        kept_y[0] = 0.0
        return FUSED[name](old_x, old_y, other)

    x, y, _ = x_and_more(4, 64)
    found = counts(program, x.requires_grad_(), y.requires_grad_(), (x + y).detach().cos())
    assert found.get(NAMES.get(name, name)) == 1, found


# --- masks and bodies -----------------------------------------------------------------------------


def test_a_mask_is_copied_before_it_is_written_to() -> None:
    def program(q: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        hidden = mask.tril()
        old = hidden.clone()
        hidden.fill_(True)
        attend = F.scaled_dot_product_attention
        return attend(q, q, q, attn_mask=old), attend(q, q, q, attn_mask=hidden)

    q = torch.randn(1, 2, 8, 16)
    found = counts(program, q, torch.ones(8, 8, dtype=torch.bool), options={})
    assert found == {"attention": 2}


def test_a_body_copies_and_then_writes() -> None:
    def body(x: Tensor, weight: Tensor) -> Tensor:
        h = x * 2
        old = h.clone()
        h[:, 0] = 0.0
        return norm(old, weight) * h

    def program(x: Tensor, weight: Tensor) -> Tensor:
        checkpoint = torch.utils.checkpoint.checkpoint
        return checkpoint(body, x, weight, use_reentrant=False)

    x, _, weight = x_and_more(4, 64)
    found = counts(program, x.requires_grad_(), weight.requires_grad_())
    assert found == {"rms_norm": 1}


def test_the_source_is_written_to_by_a_body() -> None:
    def program(x: Tensor, other: Tensor, weight: Tensor) -> Tensor:
        old = x.clone()
        torch.cond(other.sum() > 0, lambda t: t.sin(), lambda t: t.cos(), (x,))
        x += other
        return norm(old, weight)

    assert counts(program, *x_and_more(4, 64)) == {"rms_norm": 1}
