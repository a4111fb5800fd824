"""The limits that a registered fusion states about its op's arguments: declined with its words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch

import tile_backend
from tile_backend import Fusion, Op, Reason, ReasonKind, Spelling
from tile_backend.inductor import without_codegen
from tile_backend.lowering.fusion import same_as
from tile_backend.registry import unregister

Tensor = torch.Tensor


def relu_scaled(x: Tensor, factor: float) -> Tensor:
    return torch.relu(x) * factor


def at_most_64_features(arguments: Mapping[str, Any]) -> Reason | None:
    """at most 64 features"""
    if arguments["x"].shape[-1] <= 64:
        return None
    return Reason(ReasonKind.SHAPE_LIMIT, "its op takes at most 64 features", fix="split it")


def a_factor_over_one(arguments: Mapping[str, Any]) -> Reason | None:
    """a factor over one"""
    if arguments["factor"] > 1:
        return None
    return Reason(ReasonKind.SEMANTICS_UNSUPPORTED, f"the factor {arguments['factor']} shrinks")


@pytest.fixture(autouse=True)
def fusion() -> Iterator[Fusion]:
    declared = Fusion(
        name="relu_scaled",
        summary="relu(x) * c",
        ops=(Op("relu_scaled", "(Tensor x, float factor) -> Tensor", relu_scaled, same_as("x")),),
        holes={"x": tile_backend.Tensor("... D"), "factor": tile_backend.Scalar()},
        spellings=(Spelling(relu_scaled),),
        anchors=("relu",),
        limits=(at_most_64_features, a_factor_over_one),
    )
    tile_backend.register(declared)
    yield declared
    unregister(declared.name)


@pytest.mark.parametrize(
    ("width", "factor", "kind", "words"),
    (
        (64, 2.0, None, ""),
        (65, 2.0, ReasonKind.SHAPE_LIMIT, "its op takes at most 64 features. fix: split it"),
        (64, 0.5, ReasonKind.SEMANTICS_UNSUPPORTED, "the factor 0.5 shrinks"),
    ),
)
def test_a_site_beyond_a_limit_is_declined_with_its_words(
    width: int, factor: float, kind: ReasonKind | None, words: str
) -> None:
    torch.compiler.reset()  # one width after the other would be dynamic
    report = tile_backend.explain(lambda x: relu_scaled(x, factor), torch.randn(4, width))
    (site,) = report.sites
    assert site.status == ("declined" if kind else "fused")
    assert (site.reason and site.reason.kind) is kind
    assert words in report.to_text()


def test_a_limit_of_a_dynamic_size_declines() -> None:
    """To compare the size would be a guard, and another compile for sizes with another answer."""

    def function(x: Tensor) -> Tensor:
        return relu_scaled(x, 2.0)

    torch._dynamo.reset()
    with without_codegen():
        compiled = torch.compile(
            function, backend="tilegym", dynamic=True, options={"tilegym.kernels": "always"}
        )
        for width in (32, 48, 100):
            x = torch.randn(4, width)
            assert torch.equal(compiled(x), function(x))
            report = tile_backend.last_report()
            assert report is not None
            (site,) = report.sites
            assert site.status == "declined"
            assert site.reason is not None
            assert site.reason.kind is ReasonKind.SHAPE_UNPROVABLE
            assert "it would have to know whether" in site.reason.text
