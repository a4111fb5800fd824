"""Writes that nobody else can see become functions; every other write stays a write."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tests.core_graph import capture, clone
from tests.models.check import assert_like_eager
from tile_backend.lowering import effects, in_place

Tensor = torch.Tensor
Program = Callable[[Tensor, Tensor], Any]


def inputs() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(8, 8, generator=generator) for name in ("x", "y")}


# --- private writes -------------------------------------------------------------------------------


def augmented(x: Tensor, y: Tensor) -> Tensor:
    scores = x @ y
    scores += y
    scores *= 0.5
    scores -= x
    scores /= 3.0
    return scores.exp()


def called_as_a_statement(x: Tensor, y: Tensor) -> Tensor:
    scores = x @ y
    scores.masked_fill_(y > 0, -1.0)
    scores.div_(2.0)
    return scores.exp()


def by_flag(x: Tensor, y: Tensor) -> Tensor:
    return F.silu(x @ y, inplace=True) * F.relu(y @ x, True)


def through_a_view(x: Tensor, y: Tensor) -> Tensor:
    heads = (x @ y).view(8, 2, 4).transpose(0, 1)
    heads += 1.0
    return heads.reshape(-1)


def added_to_itself(x: Tensor, y: Tensor) -> Tensor:
    scores = x @ y
    scores += scores
    return scores


def old_value_is_read_before(x: Tensor, y: Tensor) -> Tensor:
    scores = x @ y
    turned = scores.mT.exp()
    scores += turned
    return scores + turned


def returned_twice(x: Tensor, y: Tensor) -> Any:
    scores = x @ y
    same = scores.add_(y)
    return scores, same


PRIVATE = {
    augmented: 4,
    called_as_a_statement: 2,
    by_flag: 2,
    through_a_view: 1,
    added_to_itself: 1,
    old_value_is_read_before: 1,
    returned_twice: 1,
}


@pytest.mark.parametrize("program", PRIVATE)
def test_a_private_write_becomes_a_function(program: Program) -> None:
    captured = capture(program, inputs())
    module = captured.module
    expected = module(*map(clone, captured.inputs))
    assert in_place.functionalise(module) == PRIVATE[program]
    module.graph.lint()
    assert not any(effects.written(node) for node in module.graph.nodes)
    for result, before in zip(module(*captured.inputs), expected, strict=True):
        assert torch.equal(result, before)
        assert result.stride() == before.stride()


# --- writes that somebody sees --------------------------------------------------------------------


def to_an_input(x: Tensor, y: Tensor) -> Tensor:
    x += y
    return x


def view_is_read_later(x: Tensor, y: Tensor) -> Tensor:
    scores = x @ y
    head = scores[:2]
    scores += 1.0
    return scores.sum() + head.sum()


def base_is_read_later(x: Tensor, y: Tensor) -> Tensor:
    scores = x @ y
    head = scores[:2]
    head += 1.0
    return scores.sum()


def half_of_a_projection(x: Tensor, y: Tensor) -> Tensor:
    first, second = (x @ y).chunk(2, dim=-1)
    first += 1.0
    return first * second


def keeps_its_dtype(x: Tensor, y: Tensor) -> Tensor:
    scores = (x @ y).bfloat16()
    scores += y
    return scores


def without_gradient(x: Tensor, y: Tensor) -> Tensor:
    with torch.no_grad():
        scores = x @ y
        scores.mul_(2.0)
    return scores


SEEN = (
    to_an_input,
    view_is_read_later,
    base_is_read_later,
    half_of_a_projection,
    keeps_its_dtype,
    without_gradient,
)


@pytest.mark.parametrize("program", SEEN)
def test_a_write_that_is_seen_stays(program: Program) -> None:
    captured = capture(program, inputs())
    module = captured.module
    expected = module(*map(clone, captured.inputs))
    assert in_place.functionalise(module) == 0
    for result, before in zip(module(*captured.inputs), expected, strict=True):
        assert torch.equal(result, before)


# --- what it is for -------------------------------------------------------------------------------


def attention(x: Tensor, y: Tensor) -> Tensor:
    q, k, v = (t.view(1, 2, 8, 4) for t in (x, y, x * y))
    scores = torch.matmul(q, k.transpose(-2, -1))
    scores /= 2.0
    scores.masked_fill_(torch.ones(8, 8, dtype=torch.bool).triu(1), float("-inf"))
    return torch.matmul(F.softmax(scores, dim=-1), v)


def gate(x: Tensor, y: Tensor) -> Tensor:
    return F.silu(x @ y, inplace=True) * (y @ x)


@pytest.mark.parametrize(("program", "name"), [(attention, "attention"), (gate, "silu_mul")])
def test_a_fusion_is_seen_through_the_write(program: Program, name: str) -> None:
    given = inputs()
    report = assert_like_eager(program, given["x"], given["y"])
    assert report.counts == {name: 1}
