"""A certificate runs the writes that stand between the nodes of a site, as the program does.

So it finds a rewrite that reads too late or too early, were the checks to let it pass: they are
turned off here, one by one.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch

import tile_backend
from tests.norm_program import norm, x_and_more
from tile_backend.errors import CertificateFailed
from tile_backend.inductor import without_codegen
from tile_backend.lowering import read_place
from tile_backend.lowering.canonical import CanonicalGraph

Tensor = torch.Tensor
VERIFIED: Mapping[str, Any] = {"tilegym.kernels": "always", "tilegym.verify": "first"}


def verdicts(program: Callable[..., Tensor], *inputs: Tensor) -> list[str]:
    """Of the certificates. What is computed is what eager computes, bit for bit: nothing is put in
    whose certificate failed.
    """
    torch._dynamo.reset()
    eager = program(*(t.clone() for t in inputs))
    with without_codegen(), warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore", CertificateFailed)
        compiled = torch.compile(program, backend="tilegym", options=dict(VERIFIED))
        result = compiled(*(t.clone() for t in inputs))
    report = tile_backend.last_report()
    assert report is not None
    shown = [site.certificate for site in report.sites if site.certificate is not None]
    found = [certificate.verdict for certificate in shown]
    if "failed" in found:
        assert torch.equal(result, eager)
    return found


def between(x: Tensor, other: Tensor, weight: Tensor) -> Tensor:
    mean = x.pow(2).mean(-1, keepdim=True)
    torch._foreach_copy_([x], [other])
    return x * torch.rsqrt(mean + 1e-6) * weight


def copied(x: Tensor, other: Tensor, weight: Tensor) -> Tensor:
    old = x.clone()
    x[:, ::2] = other[:, ::2]
    return norm(old, weight)


def written_through_a_view(x: Tensor, other: Tensor, weight: Tensor) -> Tensor:
    old = torch.cat([x])
    x.view(-1)[::2].zero_()
    return norm(old, weight)


def nothing(*_: object) -> None:
    return None


def test_a_write_inside_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read_place, "undisturbed", nothing)
    monkeypatch.setattr(CanonicalGraph, "_versioned", lambda self, node: self.term[node])
    assert verdicts(between, *x_and_more(4, 64)) == ["failed"]


@pytest.mark.parametrize("program", (copied, written_through_a_view), ids=lambda p: p.__name__)
def test_a_copy_is_made_before_the_write(
    program: Callable[..., Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert verdicts(program, *x_and_more(4, 64)) == ["certified"]
    monkeypatch.setattr(read_place, "unchanged", nothing)
    monkeypatch.setattr(CanonicalGraph, "_is", lambda *_: True)
    assert verdicts(program, *x_and_more(4, 64)) == ["failed"]


def test_what_the_checks_let_pass_is_declined_by_the_other_check(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A copy that stands for its source is not read once something wrote to the source."""
    monkeypatch.setattr(CanonicalGraph, "_is", lambda *_: True)
    assert verdicts(copied, *x_and_more(4, 64)) == []


def test_memory_that_two_inputs_share() -> None:
    """Inputs of a certificate get numbers of their own: a write to one is none to the other."""

    def program(q: Tensor, k: Tensor, cache: Tensor, view: Tensor) -> Tensor:
        scores = q @ k.transpose(-2, -1) * 0.25
        view.mul_(2.0)
        return torch.softmax(scores, -1) @ cache

    q, k, cache = (torch.randn(1, 2, 8, 16) for _ in range(3))
    torch._dynamo.reset()
    options = dict(VERIFIED)
    with without_codegen(), torch.no_grad():
        torch.compile(program, backend="tilegym", options=options)(q, k, cache, cache[:, :, 2:])
    report = tile_backend.last_report()
    assert report is not None
    (site,) = report.fused
    assert site.certificate is not None
    assert "shares memory that is written to in between" in site.certificate.text


def test_random_numbers_that_are_written_in_between() -> None:
    def program(q: Tensor, k: Tensor, cache: Tensor) -> Tensor:
        scores = q @ k.transpose(-2, -1) * 0.25
        cache.bernoulli_(0.5)
        return torch.softmax(scores, -1) @ cache

    q, k, cache = (torch.randn(1, 2, 8, 16) for _ in range(3))
    assert verdicts(program, q, k, cache) == ["not certified"]


def test_a_write_to_something_else_is_left_out() -> None:
    def program(x: Tensor, other: Tensor, weight: Tensor) -> Tensor:
        mean = x.pow(2).mean(-1, keepdim=True)
        other.zero_()
        return x * torch.rsqrt(mean + 1e-6) * weight

    assert verdicts(program, *x_and_more(4, 64)) == ["certified"]


def test_a_cache_is_written_to_before_the_values_are_read() -> None:
    def program(q: Tensor, cache: Tensor, new: Tensor) -> Tensor:
        scores = q @ new.transpose(-2, -1) * 0.25
        cache.copy_(new)
        return torch.softmax(scores, -1) @ cache

    q, cache, new = (torch.randn(1, 2, 8, 16) for _ in range(3))
    assert verdicts(program, q, cache, new) == ["certified"]
