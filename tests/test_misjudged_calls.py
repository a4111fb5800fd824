"""A word that misjudges a call costs a match, never a wrong one.

The vocabulary says what a call computes; here it says something else, and the node that it says it
of is a value like any other: nothing looks inside.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.core_graph import capture
from tile_backend.lowering import canonical
from tile_backend.lowering.canonical import CanonicalGraph

Tensor = torch.Tensor


def program(x: Tensor) -> Tensor:
    return x.sin().cos()


@pytest.mark.parametrize(
    ("dtype", "shape", "is_looked_into"),
    (
        (torch.float32, (4, 8), True),
        (torch.bfloat16, (4, 8), False),
        (torch.float32, (4, 8, 1), False),
    ),
)
def test_a_term_has_the_dtype_and_the_rank_of_its_node(
    dtype: torch.dtype, shape: tuple[int, ...], is_looked_into: bool, monkeypatch: Any
) -> None:
    def misjudged(table: Any, target: Any, args: Any, kwargs: Any, fake: Any) -> Any:
        return table.intern("square", args, (str(target),), dtype, shape)

    monkeypatch.setattr(canonical, "meaning_of", misjudged)
    graph = capture(program, {"x": torch.randn(4, 8)}).module.graph
    found = CanonicalGraph(graph)
    words = {found.term[node].op for node in graph.nodes if node.op.startswith("call")}
    assert words == ({"square"} if is_looked_into else {"leaf"})
