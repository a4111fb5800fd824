"""Slices: what Inductor would fuse with a site, which sites share one, and the ways of one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from tile_backend import inductor, pipeline, tiny_model
from tile_backend.lowering import slices, ways
from tile_backend.lowering.analysis import Analysis
from tile_backend.lowering.plan import Candidate
from tile_backend.lowering.slices import Slice
from tile_backend.lowering.tuning_entry import INDUCTOR
from tile_backend.options import Options


def visited(
    function: Any, visit: Callable[[list[Slice], Analysis], Any], *args: Any, **kwargs: Any
) -> Any:
    def look(module: fx.GraphModule) -> Any:
        options, _ = Options.parse({}, environ={})
        analysis = pipeline.analyse(module, options)
        candidates = [
            origin
            for origin in analysis.origins
            if isinstance(origin, Candidate) and origin.call is not None
        ]
        return visit(slices.slices(candidates, analysis.nesting.effects[module.graph]), analysis)

    with torch.no_grad():
        return inductor.capture(function, args, kwargs, look).visited


def shown(parts: list[Slice], _: Analysis) -> list[tuple[list[str], tuple[str, ...]]]:
    return [([c.fusion for c in part.candidates], part.words) for part in parts]


def norm(x: torch.Tensor) -> torch.Tensor:
    return F.rms_norm(x, (64,))


X = torch.randn(8, 64)


def test_a_matrix_product_ends_a_slice() -> None:
    weight = torch.randn(64, 64)

    def function(x: torch.Tensor) -> torch.Tensor:
        return norm(x * 2).relu() @ weight + 1

    assert visited(function, shown, X) == [(["rms_norm"], ("mul", "relu"))]


def test_the_residual_stream_does_not_join_layers() -> None:
    """The sum is read again after a product, by a loop that cannot be this one."""
    llama = tiny_model.tiny_model("llama").eval()
    parts = visited(llama, shown, tiny_model.tokens(2, 16), use_cache=False)
    assert [sites for sites, _ in parts] == [
        ["rms_norm"],
        *[["rotary"], ["attention"], ["add_rms_norm"], ["silu_mul"], ["add_rms_norm"]] * 2,
    ]


def test_sites_whose_neighbours_touch_share_a_slice() -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        return F.silu(norm(x).tanh()) * x

    assert visited(function, shown, X) == [(["rms_norm", "silu_mul"], ("tanh",))]


def test_random_numbers_and_writes_are_no_neighbours() -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        y = norm(F.dropout(x, 0.5)).neg()
        y[0] = 1
        return y.cos()

    assert visited(function, shown, X) == [(["rms_norm"], ())]


def test_identical_layers_have_one_key() -> None:
    llama = tiny_model.tiny_model("llama").eval()

    def keys(parts: list[Slice], _: Analysis) -> int:
        return len({part.key for part in parts})

    assert visited(llama, keys, tiny_model.tokens(2, 16), use_cache=False) == 6


def test_the_ways_compute_the_same() -> None:
    class Two(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.silu(norm(x * 2).tanh()) * x + 1

    def run(parts: list[Slice], analysis: Analysis) -> dict[str, tuple[int, torch.Tensor]]:
        (part,) = parts
        found = ways.ways(part, part.candidates, analysis.nesting)
        return {way: (found.ops(way), found.codes[way]) for way in found.codes}

    found = visited(Two(), run, X)
    assert {way: ops for way, (ops, _) in found.items()} == {
        INDUCTOR: 0,
        "rms_norm+silu_mul": 2,
        "rms_norm": 1,
        "silu_mul": 1,
    }
    for _, code in found.values():
        (result,) = code(X)
        torch.testing.assert_close(result, Two()(X))


def test_two_sites_of_one_op_have_names_of_their_own() -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        return norm(norm(x).tanh())

    def names(parts: list[Slice], analysis: Analysis) -> list[str]:
        (part,) = parts
        return list(ways.sets(part, part.candidates))

    found = visited(function, names, X)
    assert found == [INDUCTOR, "rms_norm+rms_norm#2", "rms_norm", "rms_norm#2"]


def test_a_mask_is_given_to_all_ways() -> None:
    """It belongs to many layers, so no way is charged with it."""
    llama = tiny_model.tiny_model("llama").eval()

    def led(parts: list[Slice], analysis: Analysis) -> tuple[list[str], list[str]]:
        part = next(p for p in parts if p.candidates[0].fusion == "attention")
        found = ways.ways(part, part.candidates, analysis.nesting)
        calls = [str(node.target) for node in found.codes[INDUCTOR].graph.nodes]
        return [str(node.meta["example_value"].dtype) for node in found.led], calls

    masks, calls = visited(llama, led, tiny_model.tokens(2, 16), use_cache=False)
    assert masks == ["torch.bool"]
    assert sum("input_" in call for call in calls) == len(calls) - 2, "SDPA and the output"
