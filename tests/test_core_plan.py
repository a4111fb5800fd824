"""Which fusion gets a region, what is merged, and where options and scopes let it fire."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

import tile_backend
from tests.core_graph import capture
from tests.models.check import assert_like_eager
from tests.norm_program import norm
from tile_backend import errors
from tile_backend.inductor import without_codegen

Tensor = torch.Tensor


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def report_of(function: Callable[..., Any], *inputs: Any, **options: Any) -> tile_backend.Report:
    """Compile with kernels="always" and the given options of ours, run once, return the report."""
    torch._dynamo.reset()
    settings = {"tilegym.kernels": "always"} | {f"tilegym.{k}": v for k, v in options.items()}
    with without_codegen():
        ours = torch.compile(function, backend="tilegym", options=settings)(*inputs)
    assert torch.allclose(ours, function(*inputs), rtol=1e-4, atol=1e-5)
    report = tile_backend.last_report()
    assert report is not None
    return report


# --- overlaps ------------------------------------------------------------------------------------


def attended(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.softmax(q @ k.transpose(-1, -2) * 0.25, dim=-1) @ v


def normed_sum(x: Tensor, residual: Tensor, weight: Tensor) -> Tensor:
    total = x + residual
    return norm(total, weight) + total


QKV = [randn(2, 3, 5, 16, seed=i) for i in range(3)]
XRW = [randn(4, 32), randn(4, 32, seed=1), randn(32, seed=2)]


def test_attention_takes_its_softmax() -> None:
    assert report_of(attended, *QKV).counts == {"attention": 1}
    assert report_of(attended, *QKV, fusions=["softmax"]).counts == {"softmax": 1}


def test_the_sum_goes_with_its_norm() -> None:
    assert report_of(normed_sum, *XRW).counts == {"add_rms_norm": 1}
    assert report_of(normed_sum, *XRW, fusions=["rms_norm"]).counts == {"rms_norm": 1}


def test_an_excluded_fusion_leaves_its_region_to_the_next() -> None:
    """It has a remark of its own only where nothing else took the region."""
    report = report_of(normed_sum, *XRW, exclude={"add_rms_norm": ["*"]})
    assert report.counts == {"rms_norm": 1}
    report = report_of(attended, *QKV, exclude={"attention": ["*"], "softmax": ["*"]})
    assert not report.counts
    (site,) = report.sites
    assert site.reason is not None
    assert (site.fusion, site.reason.kind) == ("attention", "excluded_by_user")


def test_two_norms_of_one_sum_share_it() -> None:
    def program(x: Tensor, residual: Tensor, weight: Tensor) -> Tensor:
        total = x + residual
        return norm(total, weight) * norm(total, weight + 1)

    report = report_of(program, *XRW)
    assert report.counts == {"add_rms_norm": 1, "rms_norm": 1}


def test_a_chain_of_residuals() -> None:
    def program(x: Tensor, residual: Tensor, weight: Tensor) -> Tensor:
        for _ in range(3):
            residual = x + residual
            x = norm(residual, weight)
        return x + residual

    assert report_of(program, *XRW).counts == {"add_rms_norm": 3}
    captured = capture(program, dict(zip(("x", "residual", "weight"), XRW, strict=True)))
    twin, sites = captured.rewritten()
    assert len(sites) == 3
    assert "rsqrt" not in twin.code, "each reads what the one before has made"


# --- q and k of one rotary embedding -------------------------------------------------------------


def rotate_half(x: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return torch.cat((-second, first), -1)


def rotary_pair(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    return q * cos + rotate_half(q) * sin, k * cos + rotate_half(k) * sin


def rotary_one(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return x * cos + rotate_half(x) * sin


class TogetherForward(torch.nn.Module):
    def forward(self, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        q, k = rotary_pair(q, k, cos, sin)
        return q @ k.transpose(-1, -2)


class ApartForward(torch.nn.Module):
    def forward(self, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
        q = rotary_one(q, cos, sin)
        k = rotary_one(k, cos, sin)
        return q @ k.transpose(-1, -2)


TABLES = [randn(2, 3, 5, 16), randn(2, 3, 5, 16, seed=1), randn(2, 5, 16), randn(2, 5, 16, seed=3)]


def test_one_call_for_q_and_k_is_one_site() -> None:
    report = report_of(TogetherForward(), *TABLES)
    assert report.counts == {"rotary": 1}
    (site,) = report.sites
    assert site.call is not None
    assert site.call.op == "rotary_qk"


def test_two_calls_in_forward_are_two_sites() -> None:
    report = report_of(ApartForward(), *TABLES)
    assert report.counts == {"rotary": 2}
    assert {s.call.op for s in report.sites if s.call} == {"rotary"}


def test_q_and_k_of_different_tables_are_not_merged() -> None:
    def program(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
        return (q * cos + rotate_half(q) * sin) * (k * sin + rotate_half(k) * cos)

    report = report_of(program, *TABLES)
    assert {s.call.op for s in report.sites if s.call} == {"rotary"}


def test_q_and_k_of_two_sizes() -> None:
    """Each with its own number of heads, in the report as well."""
    q, k, cos, sin = TABLES
    given = (q, k[:, :1], cos, sin)
    (site,) = assert_like_eager(rotary_pair, *given, found={"rotary": 1}).fused
    assert site.call is not None
    assert [site.call.arguments[name].example_shape[1] for name in ("q", "k")] == [3, 1]


def test_a_switch_between_q_and_k_keeps_them_apart() -> None:
    def pair(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, ...]:
        turned = q * cos + rotate_half(q) * sin
        with torch.no_grad():
            total = q.sum()
        return turned, k * cos + rotate_half(k) * sin, total

    def program(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, ...]:
        return pair(q, k, cos.unsqueeze(1), sin.unsqueeze(1))

    assert_like_eager(program, *TABLES, found={"rotary": 2})


def test_merged_sites_keep_gradients() -> None:
    def program(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        return rotary_pair(q, k, cos, sin)

    inputs = [t.clone().requires_grad_() for t in TABLES]
    assert assert_like_eager(program, *inputs).counts == {"rotary": 1}


# --- where it may fire ---------------------------------------------------------------------------


class Layer(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.rand(32))
        self.act = torch.nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(norm(x, self.weight)) * x


class Stack(torch.nn.Module):
    def __init__(self, checkpointed: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = torch.nn.ModuleList([Layer() for _ in range(3)])
        self.checkpointed = checkpointed

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = checkpoint(layer, x, use_reentrant=False) if self.checkpointed else layer(x)
        return x


class Broken(Stack):
    def forward(self, x: Tensor) -> Tensor:
        x = self.layers[0](x)
        torch._dynamo.graph_break()
        x = self.layers[1](x)
        torch._dynamo.graph_break()
        return self.layers[2](x)


X = randn(5, 32)


def where(report: tile_backend.Report) -> list[tuple[str, str]]:
    return sorted((s.module, s.fusion) for s in report.sites if s.status == "fused")


EVERYWHERE = [(f"layers.{i}", fusion) for i in range(3) for fusion in ("rms_norm", "silu_mul")]


def test_module_paths_are_those_of_the_user() -> None:
    assert where(report_of(Stack(), X)) == EVERYWHERE


def test_graphs_add_up_and_paths_survive_breaks() -> None:
    report = report_of(Broken(), X)
    assert where(report) == EVERYWHERE
    assert len(report.graphs) == 3
    assert [site.graph for site in report.sites] == [0, 0, 1, 1, 2, 2]


def test_bodies_of_checkpointing_are_rewritten() -> None:
    model = Stack(checkpointed=True)
    assert report_of(model, X).counts == {"rms_norm": 3, "silu_mul": 3}
    assert_like_eager(model, X.clone().requires_grad_())


def test_include_and_exclude_by_module() -> None:
    report = report_of(Stack(), X, include=["layers.1"])
    assert where(report) == EVERYWHERE[2:4]
    report = report_of(Stack(), X, exclude={"silu_mul": ["layers.0", "layers.2"]})
    excluded = {("layers.0", "silu_mul"), ("layers.2", "silu_mul")}
    assert where(report) == sorted(set(EVERYWHERE) - excluded)
    report = report_of(Broken(), X, include=["layers.2"])
    assert where(report) == EVERYWHERE[4:]


def test_layers_compiled_one_by_one() -> None:
    torch._dynamo.reset()
    model = Stack()
    expected = model(X)
    with without_codegen():
        for layer in model.layers:
            layer.compile(backend="tilegym", options={"tilegym.kernels": "always"})
        assert torch.allclose(model(X), expected, rtol=1e-5, atol=1e-6)
    report = tile_backend.last_report()
    assert report is not None
    assert report.counts == {"rms_norm": 1, "silu_mul": 1}
    assert {site.module for site in report.sites} == {""}


def test_a_scope_chooses_at_compile_time() -> None:
    with tile_backend.fusions(disable="silu_mul"):
        assert report_of(Stack(), X).counts == {"rms_norm": 3}
    with tile_backend.fusions(enable=["silu_mul"]):
        assert report_of(Stack(), X).counts == {"silu_mul": 3}


def test_never_matches_and_changes_nothing() -> None:
    report = report_of(Stack(), X, kernels="never")
    assert report.counts == {"rms_norm": 3, "silu_mul": 3}
    assert {site.decision for site in report.sites} == {"reference"}


def test_disabled_is_plain_inductor(monkeypatch: pytest.MonkeyPatch) -> None:
    report_of(norm, X, randn(32))
    monkeypatch.setenv("TILEGYM_DISABLE", "1")
    torch._dynamo.reset()
    with without_codegen(), warnings.catch_warnings():
        warnings.simplefilter("error", errors.TileBackendWarning)
        options = {"tilegym.kernels": "always", "tilegym.strict": "no-fallback"}
        compiled = torch.compile(Stack(), backend="tilegym", options=options)
        assert torch.allclose(compiled(X), Stack()(X))
    report = tile_backend.last_report()
    assert report is not None
    assert report.title == "norm", "the disabled backend made a report"
