"""Training where the program writes to something after a fusion has read it.

An op of ours keeps its operands for its backward; the original code keeps copies of them here. So
must the op: gradients are eager's, nothing raises, and every site is rewritten.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.utils.checkpoint import checkpoint

import tile_backend
from tests.models.check import assert_like_eager
from tests.writers import WRITERS
from tile_backend.inductor import without_codegen

Tensor = torch.Tensor


def norm(x: Tensor, weight: Tensor) -> Tensor:
    """In float32, which is what the original code keeps: a copy, in float64 as well."""
    h = x.to(torch.float32, copy=True)
    return weight * (h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-6)).to(x.dtype)


def inputs(*, trains: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, other = (torch.randn(4, 64, generator=generator).bfloat16() for _ in range(2))
    weight = (torch.rand(64, generator=generator) + 0.5).bfloat16()
    return x, other, weight.requires_grad_(trains)


def kept(report: tile_backend.Report | None) -> list[str]:
    """Of each norm that is rewritten what it reads, and so what it keeps: x, or its cast copy."""
    assert report is not None
    found = [site.call for site in report.sites if site.status == "fused"]
    return sorted(call.arguments["x"].dtype for call in found if call is not None)


ARITHMETIC = ("iadd", "operator_isub")
"""Written as functions, since nothing else sees the value: then nothing is written to."""
KEEPS_MORE = ("flagged", "flagged_by_position", "through_data", "data", "several_out")
"""In eager mode autograd has no formula for these, or does not see them; Dynamo ends the graph at
the last, and Inductor by itself then raises as well.
"""


@pytest.mark.parametrize("name", [name for name in WRITERS if name not in KEEPS_MORE])
def test_the_operand_is_written_to_later(name: str) -> None:
    def program(x: Tensor, other: Tensor, weight: Tensor) -> Tensor:
        h = x.sin()
        y = norm(h, weight)
        WRITERS[name](h, other)
        return y * h

    report = assert_like_eager(program, *inputs())
    assert kept(report) == ["bfloat16" if name in ARITHMETIC else "float32"]


def test_the_same_without_a_gradient_is_rewritten() -> None:
    def program(x: Tensor, other: Tensor, weight: Tensor) -> Tensor:
        y = norm(x, weight)
        x.add_(other)
        return y

    assert assert_like_eager(program, *inputs(trains=False)).counts == {"rms_norm": 1}


def test_a_write_before_is_no_harm() -> None:
    def program(x: Tensor, other: Tensor, weight: Tensor) -> Tensor:
        x.add_(other)
        return norm(x, weight)

    assert assert_like_eager(program, *inputs()).counts == {"rms_norm": 1}


def test_only_the_written_site_keeps_the_copy() -> None:
    def program(x: Tensor, other: Tensor, weight: Tensor) -> Tensor:
        h = x * weight
        y = norm(h, weight) * norm(other, weight)
        h[:, 0] = 0.0
        return y + h

    report = assert_like_eager(program, *inputs())
    assert kept(report) == ["bfloat16", "float32"]


def test_a_write_through_a_view_of_the_operand() -> None:
    def program(x: Tensor, other: Tensor, weight: Tensor) -> Tensor:
        h = x * weight
        head = h[:, :8]
        y = norm(h, weight)
        head.mul_(2.0)
        return y + h

    report = assert_like_eager(program, *inputs())
    assert kept(report) == ["float32"]


def test_the_first_reader_of_a_result_writes_to_an_operand() -> None:
    """The op goes in front of it, and would keep what is written to right there."""

    def program(x: Tensor, other: Tensor, weight: Tensor) -> Tensor:
        h = x * weight
        total = h + other
        h.copy_(total)
        return norm(total, weight) * h

    report = assert_like_eager(program, *inputs())
    assert report.counts == {"rms_norm": 1}


def test_a_body_writes_to_the_operand() -> None:
    def body(x: Tensor, weight: Tensor) -> Tensor:
        h = x * weight
        y = norm(h, weight)
        h[:, 0] = 0.0
        return y * h

    def program(x: Tensor, weight: Tensor) -> Tensor:
        return checkpoint(body, x, weight, use_reentrant=False)

    assert_same_gradients(program)


def test_the_program_writes_to_the_operand_of_a_body() -> None:
    def program(x: Tensor, weight: Tensor) -> Tensor:
        h = x * weight
        y = checkpoint(norm, h, weight, use_reentrant=False)
        h[:, 0] = 0.0
        return y.detach() * h  # recomputed in eager mode, y would have another gradient

    assert_same_gradients(program)


def assert_same_gradients(program: Callable[..., Tensor]) -> None:
    """Those of eager, and the norm keeps the copy."""
    found = []
    for compiles in (False, True):
        torch._dynamo.reset()
        x, _, weight = inputs()
        with without_codegen():
            options = {"tilegym.kernels": "always"}
            run = (
                torch.compile(program, backend="tilegym", options=options) if compiles else program
            )
            run(x, weight).float().sum().backward()
        assert weight.grad is not None
        found.append(weight.grad)
    eager, ours = found
    assert torch.equal(eager, ours)
    assert kept(tile_backend.last_report()) == ["float32"]
