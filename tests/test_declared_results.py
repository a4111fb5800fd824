"""An op that declares other results than the code that it replaces is not put in.

A user's declaration may be wrong about a dtype, a shape or a device; built-in ones are held to
eager in many places, and these checks are what stands behind them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

import tile_backend
from tests.core_graph import capture
from tests.models.check import assert_like_eager
from tile_backend.lowering import legality
from tile_backend.lowering.fusion import Fusion, Op, Spelling
from tile_backend.lowering.reason import ReasonKind
from tile_backend.registry import unregister

Tensor = torch.Tensor


def softsign(x: Tensor) -> Tensor:
    return x / (x.abs() + 1)


def of_another_dtype(x: Tensor) -> Tensor:
    return torch.empty_like(x, dtype=torch.bfloat16)


def of_another_shape(x: Tensor) -> Tensor:
    return x.new_empty((*x.shape[:-1], x.shape[-1] + 1))


def of_another_device(x: Tensor) -> Tensor:
    return torch.empty_like(x, device="meta")


WRONG: dict[Callable[[Tensor], Tensor], tuple[ReasonKind, str]] = {
    of_another_dtype: (ReasonKind.DTYPE_LIMIT, "returns torch.bfloat16 where the model has"),
    of_another_shape: (ReasonKind.SHAPE_UNPROVABLE, "returns shape (4, 9) where the model has"),
    of_another_device: (ReasonKind.SEMANTICS_UNSUPPORTED, "returns a tensor on meta where"),
}


@pytest.fixture
def registered(request: pytest.FixtureRequest) -> Iterator[Callable[[Tensor], Tensor]]:
    outputs = request.param
    name = f"softsign_{outputs.__name__}"
    declared = Fusion(
        name=name,
        summary="x / (|x| + 1)",
        ops=(Op(name, "(Tensor x) -> Tensor", softsign, outputs),),
        holes={"x": tile_backend.Tensor("... D")},
        spellings=(Spelling(softsign),),
        anchors=("abs",),
    )
    tile_backend.register(declared)
    yield outputs
    unregister(name)


@pytest.mark.parametrize("registered", WRONG, indirect=True, ids=lambda f: f.__name__)
def test_another_result_is_declined_with_words(registered: Callable[[Tensor], Tensor]) -> None:
    kind, words = WRONG[registered]
    report = assert_like_eager(softsign, torch.randn(4, 8), found={})
    (site,) = report.having("declined")
    assert site.reason is not None
    assert site.reason.kind is kind
    assert words in site.reason.text


def test_operands_on_several_devices_are_declined(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eager takes few such operands; an op takes none."""
    same = legality.same_results

    def noted(call: Any, extent: Any) -> Any:
        elsewhere = {**call.arguments, "up": torch.empty(4, 8, device="meta")}
        moved = legality.Call(call.op, elsewhere, call.outputs, call.results)
        return same(moved, extent)

    monkeypatch.setattr(legality, "same_results", noted)
    captured = capture(lambda x, y: torch.nn.functional.silu(x) * y, two())
    (site,) = captured.analyse().sites
    assert site.status == "declined"
    assert site.reason is not None
    assert "its operands are on several devices: cpu, meta" in site.reason.text


def two() -> dict[str, Tensor]:
    return {"x": torch.randn(4, 8), "y": torch.randn(4, 8)}
