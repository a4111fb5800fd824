"""flex_attention is Inductor's own: it is left alone, and the report says so."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention.flex_attention import flex_attention

import tile_backend
from tests.models.run import REWRITTEN
from tile_backend.inductor import without_codegen


class Attention(torch.nn.Module):
    def forward(self, q: torch.Tensor) -> torch.Tensor:
        found = flex_attention(q, q, q)
        assert isinstance(found, torch.Tensor)
        return found


@pytest.mark.filterwarnings("ignore")
def test_it_is_declined_with_a_reason() -> None:
    q = torch.randn(1, 2, 128, 16)
    model = torch.nn.Sequential(Attention())
    report = tile_backend.explain(model, q)
    assert "declined  attention  0" in report.to_text()
    assert "flex_attention is left to Inductor" in report.to_text()
    (site,) = report.sites
    assert site.ops == ("flex_attention",)
    assert site.reason is not None
    assert "attn_implementation='sdpa'" in site.reason.fix


@pytest.mark.filterwarnings("ignore")
def test_the_graph_keeps_it() -> None:
    q = torch.randn(1, 2, 128, 16)
    torch._dynamo.reset()
    with without_codegen():
        compiled = torch.compile(Attention(), backend="tilegym", options=dict(REWRITTEN))
        ours = compiled(q)
    torch._dynamo.reset()
    torch.testing.assert_close(ours, torch.compile(Attention(), backend="aot_eager")(q))
