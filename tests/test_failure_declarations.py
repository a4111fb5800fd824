"""A fusion of the user's costs its own sites where some part of its declaration fails."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import tile_backend
from tests.models.check import assert_like_eager
from tests.planted_failures import (
    ALWAYS,
    inputs,
    raises,
)
from tile_backend.lowering import (
    custom_op,
    inductor_ir,
)
from tile_backend.lowering.fusion import same_as
from tile_backend.lowering.reason import ReasonKind
from tile_backend.registry import unregister

Tensor = torch.Tensor


def clamped(x: Tensor, factor: float) -> Tensor:
    return torch.relu(x) * factor


def almost_clamped(x: Tensor, factor: float) -> Tensor:
    return torch.relu(x) + factor


def clamped_program(x: Tensor, side: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A fusion of the user's, a gate, and an anchor of the former that nothing comes close to."""
    return torch.relu(x) * 2.0, F.silu(side) * x, torch.relu(side).exp()


OP = tile_backend.Op("clamped", "(Tensor x, float factor) -> Tensor", clamped, same_as("x"))
CLAMPED = tile_backend.Fusion(
    name="clamped",
    summary="relu(x) * c",
    ops=(OP,),
    holes={"x": tile_backend.Tensor("... D"), "factor": tile_backend.Scalar()},
    spellings=(tile_backend.Spelling(clamped),),
    anchors=("relu",),
)
SPELLING = CLAMPED.spellings[0]


def spelled(**changes: Any) -> tile_backend.Fusion:
    spelling = dataclasses.replace(SPELLING, **changes)
    return dataclasses.replace(CLAMPED, spellings=(spelling,))


def with_op(**changes: Any) -> tile_backend.Fusion:
    return dataclasses.replace(CLAMPED, ops=(dataclasses.replace(OP, **changes),))


DECLARATIONS = {
    "limit": dataclasses.replace(CLAMPED, limits=(raises,)),
    "describe": dataclasses.replace(CLAMPED, describe=raises),
    "transform": spelled(transform=raises),
    "finish": spelled(finish=raises),
    "attribute": spelled(attributes={"factor": raises}),
    "outputs": with_op(outputs=raises),
    "schema": with_op(schema="(Tensor x, float factor) -> Nonsense"),
}


@pytest.mark.parametrize("name", DECLARATIONS)
@pytest.mark.parametrize("explains", (True, False), ids=("explain", "compile"))
def test_a_fusion_of_the_users_costs_its_own_sites(
    name: str, explains: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever part of its declaration fails."""
    monkeypatch.setenv("TILEGYM_KERNELS", "always")
    monkeypatch.setattr(custom_op, "_records", dict(custom_op._records))
    monkeypatch.setattr(inductor_ir, "_installed", set(inductor_ir._installed))
    x, _, side, _ = inputs()
    tile_backend.register(DECLARATIONS[name])
    try:
        if explains:
            report = tile_backend.explain(clamped_program, x, side)
        else:
            report = assert_like_eager(clamped_program, x, side, options=ALWAYS)
    finally:
        unregister("clamped")
    assert report.counts == {"silu_mul": 1}
    (site,) = report.having("declined")
    assert site.fusion == "clamped"
    assert site.reason is not None
    assert site.reason.kind is ReasonKind.INTERNAL_FAILURE


def test_a_near_miss_that_cannot_be_traced_costs_near_misses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TILEGYM_KERNELS", "always")
    x, _, side, _ = inputs()
    tile_backend.register(dataclasses.replace(CLAMPED, near_misses=(almost_clamped, raises)))
    try:
        report = tile_backend.explain(clamped_program, x, side)
    finally:
        unregister("clamped")
    assert report.counts == {"clamped": 1, "silu_mul": 1}
    (why,) = report.graphs[0].failures
    assert why.text.startswith("tracing the near misses of clamped failed inside tile-backend")
