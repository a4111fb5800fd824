"""torch.cond, loops, maps, shared regions and vmap: fused inside where an op can be, else said.

Results and gradients are held against eager, in every branch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch._higher_order_ops import map as mapped
from torch._higher_order_ops import scan, while_loop
from torch.utils.checkpoint import checkpoint

import tile_backend
from tests.models.check import assert_like_eager
from tests.norm_program import norm, x_and_more

Tensor = torch.Tensor


def inputs(gradients: bool = True) -> tuple[Tensor, ...]:
    """x and other [6, 64], weight [64]."""
    return tuple(t.requires_grad_(gradients) for t in x_and_more(6, 64))


def branches(x: Tensor, other: Tensor, weight: Tensor) -> Tensor:
    """A residual add and norm, or a gate."""
    return torch.cond(
        x.sum() > 0,
        lambda x, other, weight: norm(x + other, weight),
        lambda x, other, weight: F.silu(x) * other * weight,
        (x, other, weight),
    )


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("gradients", [False, True])
def test_branches(sign: float, gradients: bool) -> None:
    x, other, weight = inputs(False)
    x = x * (sign if x.sum() > 0 else -sign)
    given = (t.requires_grad_(gradients) for t in (x, other, weight))
    assert assert_like_eager(branches, *given).counts == {"add_rms_norm": 1, "silu_mul": 1}


def excluded_in_one(x: Tensor, other: Tensor, weight: Tensor) -> Tensor:
    def shown(x: Tensor, other: Tensor, weight: Tensor) -> Tensor:
        return F.silu(x) * other * weight

    def escaping(x: Tensor, other: Tensor, weight: Tensor) -> Tensor:
        activated = F.silu(x)
        return activated * other + activated.sin() * weight

    return torch.cond(x.sum() > 0, shown, escaping, (x, other, weight))


def test_each_branch_is_decided_by_itself() -> None:
    report = assert_like_eager(excluded_in_one, *inputs())
    assert sorted(site.status for site in report.sites) == ["declined", "fused"]
    assert report.counts == {"silu_mul": 1}


def test_a_checkpointed_branch() -> None:
    def program(*given: Tensor) -> Any:
        def again(*given: Tensor) -> Tensor:
            return checkpoint(branch, *given, use_reentrant=False)

        def branch(x: Tensor, other: Tensor, weight: Tensor) -> Tensor:
            return norm(x + other, weight)

        return torch.cond(given[0].sum() > 0, again, branch, given)

    assert assert_like_eager(program, *inputs()).counts == {"add_rms_norm": 2}


region = torch.compiler.nested_compile_region(norm)


def repeated(x: Tensor, other: Tensor, weight: Tensor) -> Tensor:
    return region(region(x, weight) * other, weight)


def test_a_region_that_is_compiled_once() -> None:
    """One body, so one site for its two calls; its result has a gradient."""
    assert assert_like_eager(repeated, *inputs()).counts == {"rms_norm": 1}


def looped(x: Tensor, other: Tensor, weight: Tensor) -> Any:
    def again(step: Tensor, x: Tensor) -> Tensor:
        return step < 3

    def once(step: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        return step + 1, norm(x, weight)

    return while_loop(again, once, (torch.tensor(0), x))


def scanned(x: Tensor, other: Tensor, weight: Tensor) -> Any:
    def step(carried: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
        normed = norm(carried + row, weight)
        return normed, F.silu(normed) * carried

    return scan(step, x[0], other)


def one_by_one(x: Tensor, other: Tensor, weight: Tensor) -> Any:
    return mapped(norm, x, weight)


@pytest.mark.parametrize(
    ("program", "gradients", "counts"),
    [
        (looped, False, {"rms_norm": 1}),
        (scanned, False, {"add_rms_norm": 1, "silu_mul": 1}),
        (one_by_one, True, {"rms_norm": 1}),
    ],
)
def test_steps(program: Any, gradients: bool, counts: Any) -> None:
    assert assert_like_eager(program, *inputs(gradients)).counts == counts


def rows(x: Tensor, other: Tensor, weight: Tensor) -> Tensor:
    return torch.func.vmap(norm, in_dims=(0, None))(x, weight)


def gates(x: Tensor, other: Tensor, weight: Tensor) -> Tensor:
    return torch.func.vmap(lambda x, other: F.silu(x) * other)(x, other) * weight


def heads(x: Tensor, other: Tensor, weight: Tensor) -> Tensor:
    def attend(q: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, q, q, is_causal=True)

    return torch.func.vmap(attend)(x.view(2, 1, 3, 4, 16))


def gradient_of_a_norm(x: Tensor, other: Tensor, weight: Tensor) -> Tensor:
    return torch.func.grad(lambda x: (norm(x, weight) * other).sum())(x)


@pytest.mark.parametrize(
    ("program", "fusion"),
    [
        (rows, "rms_norm"),
        (gates, "silu_mul"),
        (heads, "attention"),
        (gradient_of_a_norm, "rms_norm"),
    ],
)
@pytest.mark.parametrize("gradients", [False, True])
def test_transformed_code_is_declined(program: Any, fusion: str, gradients: bool) -> None:
    """Our ops have no rule for a batch. The report says so, and where."""
    report = assert_like_eager(program, *inputs(gradients))
    assert not report.counts
    (site,) = report.sites
    assert (site.fusion, site.status) == (fusion, "declined")
    assert "inside torch.func.vmap" in str(site.reason)


def test_beside_vmapped_code() -> None:
    """What stands before and after is fused."""

    def program(x: Tensor, other: Tensor, weight: Tensor) -> Tensor:
        middle = rows(F.silu(x) * other, other, weight)
        return norm(middle, weight)

    counts = assert_like_eager(program, *inputs()).counts
    assert counts == {"rms_norm": 1, "silu_mul": 1}


def reads(x: Tensor, other: Tensor, weight: Tensor) -> Any:
    """A value that a body only reads is still looked into outside; one that it may change is not.

    The sum is read by the body, and by the norm behind it.
    """
    total = x + other
    side = checkpoint(lambda t: t.sin(), total, use_reentrant=False)
    return F.silu(norm(total, weight)) * side


def test_what_a_body_only_reads() -> None:
    report: tile_backend.Report = assert_like_eager(reads, *inputs())
    assert report.counts == {"rms_norm": 1, "silu_mul": 1}


def returns_its_input(x: Tensor, other: Tensor, weight: Tensor) -> Any:
    """What a body returns may be its input, which is written to afterwards."""
    total = x * other
    same: Callable[..., Any] = lambda t: (t.view(-1), t.sin())  # noqa: E731
    flat, side = checkpoint(same, total, use_reentrant=False)
    before = norm(total, weight)
    flat.add_(1)
    return before, norm(total, weight), side


def test_a_body_that_returns_its_input() -> None:
    assert_like_eager(returns_its_input, *inputs(False), found={"rms_norm": 2})


def test_a_copy_of_what_a_body_returns() -> None:
    """The copy is made before the write, which goes through what the body has returned."""

    def program(x: Tensor, other: Tensor, weight: Tensor) -> Any:
        total = x * other
        same: Callable[..., Any] = lambda t: (t.view(-1), t.sin())  # noqa: E731
        flat, side = checkpoint(same, total, use_reentrant=False)
        old = total.clone()
        flat.add_(1)
        return norm(old, weight), total, side

    assert_like_eager(program, *inputs(False), found={"rms_norm": 1})


def test_a_copy_of_what_a_body_writes_to() -> None:
    """The copy is made before the body is called; the sum is read after it."""

    def program(x: Tensor, other: Tensor, weight: Tensor) -> Any:
        total = x * other
        old = total.clone()
        grow: Callable[..., Any] = lambda t: t.add_(1).sin()  # noqa: E731
        side = checkpoint(grow, total, use_reentrant=False)
        return norm(old, weight), total, side

    assert_like_eager(program, *inputs(False), found={"rms_norm": 1})
