"""A near miss whose operations are all there names the sizes that differ, or may differ."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch._dynamo

import tile_backend
from tile_backend.lowering.reason import ReasonKind

Tensor = torch.Tensor


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    one, other = x.chunk(2, -1)
    return x * cos + torch.cat((-other, one), -1) * sin


def rotated_elsewhere(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    one, other = x[..., :4], x[..., 4:]
    return x * cos + torch.cat((-other, one), -1) * sin


def said(function: Callable[..., Tensor], dynamic: bool) -> tuple[ReasonKind, str]:
    torch._dynamo.reset()
    given = [torch.randn(size) for size in ((2, 4, 7, 16), (7, 16), (7, 16))]
    compiled = torch.compile(function, backend="tilegym", dynamic=dynamic)
    compiled(*given)
    report = tile_backend.last_report()
    assert report is not None
    (site,) = report.sites
    assert (site.fusion, site.status) == ("rotary", "near-miss")
    assert site.reason is not None
    return site.reason.kind, site.reason.text


def test_sizes_that_differ() -> None:
    kind, text = said(rotated_elsewhere, dynamic=False)
    assert kind is ReasonKind.SHAPE_LIMIT
    assert text == "D//2 of an operand would have to be 8 and 4"


def test_sizes_that_may_differ() -> None:
    """Of a symbolic head width nothing says that it is even."""
    kind, text = said(rotated, dynamic=True)
    assert kind is ReasonKind.SHAPE_UNPROVABLE
    assert text.startswith("nothing says that D//2 of an operand is ((s")


@pytest.mark.parametrize("dynamic", (False, None))
def test_the_same_with_a_size_that_is_known_is_no_near_miss(dynamic: bool | None) -> None:
    torch._dynamo.reset()
    given = [torch.randn(size) for size in ((2, 4, 7, 16), (7, 16), (7, 16))]
    torch.compile(rotated, backend="tilegym", dynamic=dynamic)(*given)
    report = tile_backend.last_report()
    assert report is not None
    assert [site.fusion for site in report.sites if site.status != "near-miss"] == ["rotary"]
