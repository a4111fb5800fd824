"""What the walk-through asks of the lowering: identities as they are used, and sites' origins."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.core_graph import capture
from tile_backend.lowering import identities
from tile_backend.lowering.canonical import CanonicalGraph
from tile_backend.lowering.near_miss import NearMiss
from tile_backend.lowering.plan import Candidate
from tile_backend.tour_subject import ObservedGraph


def squares(x: Tensor) -> Tensor:
    return x * x + x.pow(2) + torch.square(x)


def test_identities_are_noted_where_somebody_listens() -> None:
    graph = capture(squares, {"x": torch.randn(3)}).module.graph
    with identities.noted() as rules:
        CanonicalGraph(graph)
    assert [rule.__name__ for rule in rules] == ["square", "known_powers"]
    with identities.noted() as none:
        pass
    CanonicalGraph(graph)
    assert none == []


def test_each_node_has_the_identities_of_its_own_term() -> None:
    observed = ObservedGraph(capture(squares, {"x": torch.randn(3)}).module.graph)
    rules = {node.name: [r.__name__ for r in found] for node, found in observed.rules.items()}
    assert rules["mul"] == ["square"]
    assert rules["pow_1"] == ["known_powers"]
    assert rules["square"] == []
    terms = {
        observed.term[node] for node in observed.rules if node.name in ("mul", "pow_1", "square")
    }
    assert len(terms) == 1


def almost_and_really(x: Tensor, w: Tensor) -> tuple[Tensor, ...]:
    norm = w * (x / (x.pow(2).mean(-1, keepdim=True).sqrt() + 1e-6))
    dropped = F.scaled_dot_product_attention(x, x, x, dropout_p=0.1)
    return norm, torch.softmax(norm, -1), dropped


def test_sites_have_origins() -> None:
    found = capture(almost_and_really, {"x": torch.randn(1, 1, 4, 8), "w": torch.ones(8)}).analyse()
    kinds = [
        (site.status, type(origin)) for site, origin in zip(found.sites, found.origins, strict=True)
    ]
    assert kinds == [("near-miss", NearMiss), ("declined", Candidate), ("fused", Candidate)]
    for site, origin in zip(found.sites, found.origins, strict=True):
        assert origin is not None
        assert origin.root.name in {line.name for line in site.before}
