"""A model that is already compiled: what is looked at is the original, and a warning says so."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch

import tile_backend
from tile_backend.errors import AlreadyCompiled

pytestmark = pytest.mark.usefixtures("graphs_only")


class Norm(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.rand(64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


def wrapped() -> torch.nn.Module:
    model: torch.nn.Module = torch.compile(Norm(), backend="eager")
    return model


def compiled_in_place() -> torch.nn.Module:
    model = Norm()
    model.compile(backend="eager")
    return model


@pytest.mark.parametrize("make", [wrapped, compiled_in_place])
def test_explain_looks_through_it_and_warns(make: Callable[[], torch.nn.Module]) -> None:
    with pytest.warns(AlreadyCompiled, match="Norm is already compiled.*Pass the original"):
        report = tile_backend.explain(make(), torch.randn(4, 64))
    assert report.counts == {"rms_norm": 1}
    assert report.title == "Norm"


def test_compiling_it_again_compiles_the_original_and_warns() -> None:
    before = wrapped()
    with pytest.warns(AlreadyCompiled, match="Norm is already compiled"):
        torch.compile(before, backend="tilegym")(torch.randn(4, 64))
    report = tile_backend.last_report()
    assert report is not None
    assert report.counts == {"rms_norm": 1}


@pytest.mark.parametrize("part", [lambda m: m, lambda m: m.forward], ids=["module", "forward"])
def test_an_original_does_not_warn(
    part: Callable[[torch.nn.Module], Callable[..., object]],
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", AlreadyCompiled)
        torch.compile(part(Norm()), backend="tilegym")(torch.randn(4, 64))
