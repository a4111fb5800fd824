"""Parameters and buffers are called what their user calls them, in lines, operands and reasons."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

import tile_backend
from tile_backend.inductor import without_codegen
from tile_backend.lowering.provenance import tensor_path

Tensor = torch.Tensor
X = torch.randn(2, 32)


class Norm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(32))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


class Gate(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("gain", torch.ones(32))
        self.gain: Tensor

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(x) * self.gain


class Broken(nn.Module):
    """Each step is a frame of its own, whose `self` is this module."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = Norm()

    def forward(self, x: Tensor) -> Tensor:
        torch._dynamo.graph_break()
        return self.norm(x) * 2


class Model(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x + 1)


class Checkpointed(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        for layer in self:
            x = checkpoint(layer, x, use_reentrant=False)
        return x


def lines(report: tile_backend.Report) -> list[str]:
    """The last op of each site."""
    return [site.before[-1].text for site in report.sites]


def test_a_parameter_of_a_layer() -> None:
    report = tile_backend.explain(Model(Norm()), X)
    (site,) = report.sites
    assert lines(report) == ["mul_1 = mul(inner.weight, mul)"]
    assert site.call is not None
    assert site.call.operands["weight"] == "inner.weight"
    assert "weight=inner.weight, eps=1e-06" in site.after[0]


def test_a_parameter_of_the_compiled_module_itself() -> None:
    assert lines(tile_backend.explain(Norm(), X)) == ["mul_1 = mul(self.weight, mul)"]


def test_a_buffer() -> None:
    report = tile_backend.explain(Model(Gate()), X)
    assert lines(report) == ["mul = mul(silu, inner.gain)"]


def test_bodies_of_checkpointing() -> None:
    report = tile_backend.explain(Checkpointed(Norm(), Norm()), X)
    assert lines(report) == ["mul_1 = mul(0.weight, mul)", "mul_1 = mul(1.weight, mul)"]


def test_a_part_behind_a_graph_break() -> None:
    torch._dynamo.reset()
    with without_codegen():
        torch.compile(Model(Broken()), backend="tilegym")(X)
    report = tile_backend.last_report()
    assert report is not None
    assert [site.module for site in report.sites] == ["inner.norm"]
    assert lines(report) == ["mul_1 = mul(inner.norm.weight, mul)"]


def test_the_dump_shows_it(tmp_path: Path) -> None:
    tile_backend.explain(Model(Norm()), X).save(tmp_path)
    diff = (tmp_path / "001_rms_norm__inner" / "diff.txt").read_text()
    assert "  mul_1 = mul(inner.weight, mul) " in diff
    assert "weight=inner.weight" in diff
    assert "_parameters_" not in diff


@pytest.mark.parametrize(
    ("expression", "prefix", "path"),
    (
        ("L['self']._modules['mlp']._modules['norm']._parameters['weight']", "", "mlp.norm.weight"),
        ("L['self']._modules['norm']._parameters['weight']", "h.0", "h.0.norm.weight"),
        ("L['self'].model.layers[0]._buffers['inv_freq']", "", "model.layers.0.inv_freq"),
        ("L['fn'].__self__._modules['0']._parameters['bias']", "", "0.bias"),
        ("L['self']._parameters['weight']", "", "self.weight"),
        ("L['self']._parameters['weight']", "h.0", "h.0.weight"),
        ("L['self']._modules['_orig_mod']._modules['0']._parameters['bias']", "", "0.bias"),
        ("L['norm']._parameters['weight']", "h", "norm.weight"),
        ("L['self'].__dict__['_modules']['a'].b._parameters['w']", "", "a.b.w"),
        ("G['model']._modules['head']._parameters['weight']", "", "model.head.weight"),
        ("L['x']", "h", ""),
        ("L['args'][0]", "", ""),
        ("L['cache'].layers[0].keys", "", ""),
        ("", "", ""),
    ),
)
def test_expressions(expression: str, prefix: str, path: str) -> None:
    assert tensor_path(expression, prefix) == path
