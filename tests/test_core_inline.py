"""nn.MultiheadAttention is one node for Dynamo; written out, its attention is found."""

from __future__ import annotations

from unittest import mock

import pytest
import torch
from torch import fx, nn

import tile_backend
from tile_backend.inductor import capture, without_codegen
from tile_backend.lowering.inline import COMPOSITES, Inliner, Unrecordable, inline

X = torch.randn(2, 12, 32)


def outcome(result: torch.Tensor | tuple[torch.Tensor, ...]) -> torch.Tensor:
    return result[0] if isinstance(result, tuple) else result


class Pooling(nn.Module):
    """As vision encoders pool: the default of need_weights, whose result nobody takes."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        bias = 0.1 * torch.arange(x.shape[1]).to(x).expand(x.shape[1], -1)
        return self.attention(x, x, x, attn_mask=bias)[0]  # type: ignore[no-any-return]


CASES = {
    "self attention": (
        nn.MultiheadAttention(32, 4, batch_first=True),
        (X, X, X),
        {"need_weights": False},
        {"attention": 1},
    ),
    "weights are returned": (
        nn.MultiheadAttention(32, 4, batch_first=True),
        (X, X, X),
        {"need_weights": True},
        {"softmax": 1},
    ),
    "weights are computed in vain": (Pooling(), (X,), {}, {"attention": 1}),
    "encoder layer": (
        nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True),
        (X,),
        {},
        {"attention": 1, "layer_norm": 2},
    ),
    "decoder layer": (
        nn.TransformerDecoderLayer(32, 4, 64, dropout=0.0, batch_first=True),
        (X, X),
        {},
        {"attention": 2, "layer_norm": 3},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_attention_inside_is_found_and_computes_the_same(name: str) -> None:
    module, args, kwargs, counts = CASES[name]
    torch._dynamo.reset()
    assert tile_backend.explain(module, *args, **kwargs).counts == counts
    eager = outcome(module(*args, **kwargs))
    with without_codegen():
        compiled = torch.compile(module, backend="tilegym", options={"tilegym.kernels": "always"})
        actual = outcome(compiled(*args, **kwargs))
    report = tile_backend.last_report()
    assert report is not None
    assert report.counts == counts
    # One float32 rounding per addition of the widest sum; eager runs the same products.
    bound = 64 * torch.finfo(torch.float32).eps * eager.abs().max()
    assert (actual - eager).abs().max() <= bound


def test_the_site_lies_in_the_module_that_called() -> None:
    module, args, kwargs, _ = CASES["encoder layer"]
    torch._dynamo.reset()
    sites = tile_backend.explain(module, *args, **kwargs).sites
    assert [s.module for s in sites if s.fusion == "attention"] == ["self_attn"]


SYMBOLIC = [(name, (1,)) for name in CASES]
SYMBOLIC += [(name, (0, 1)) for name in CASES if not name.startswith("weights")]
"""torch's own baddbmm, which computes returned weights, takes no symbolic batch."""


@pytest.mark.sampled(4)
@pytest.mark.parametrize(("name", "dynamic"), SYMBOLIC)
def test_sizes_may_be_symbolic(name: str, dynamic: tuple[int, ...]) -> None:
    module, args, kwargs, counts = CASES[name]
    torch._dynamo.reset()
    x = torch.randn(3, 12, 32)
    for dim in dynamic:
        torch._dynamo.mark_dynamic(x, dim)
    always = {"tilegym.kernels": "always"}
    with without_codegen():
        compiled = torch.compile(module, backend="tilegym", options=always)
        actual = outcome(compiled(*(x,) * len(args), **kwargs))
    report = tile_backend.last_report()
    assert report is not None
    assert report.counts == counts
    assert report.graphs[0].symbols
    eager = outcome(module(*(x,) * len(args), **kwargs))
    bound = 64 * torch.finfo(torch.float32).eps * eager.abs().max()
    assert (actual - eager).abs().max() <= bound


def test_what_cannot_be_recorded_stays_one_node() -> None:
    torch._dynamo.reset()
    x = torch.randn(2, 12, 32)
    module = nn.MultiheadAttention(32, 4, batch_first=True)

    def left_alone(captured: fx.GraphModule) -> bool:
        before = [node.name for node in captured.graph.nodes]
        assert any(node.target in COMPOSITES for node in captured.graph.nodes)
        with mock.patch.object(Inliner, "written", side_effect=Unrecordable):
            assert inline(captured) == 0
        return [node.name for node in captured.graph.nodes] == before

    assert capture(module, (x, x, x), {"need_weights": False}, left_alone).visited
