"""Positions that are sizes known at run time only: the kernel reads them from a tensor."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

import tile_backend
from tests.models.check import assert_like_eager

Attend = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def at_the_end(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """The last query sees the last key, as in a prefill that goes on."""
    positions = torch.arange(q.shape[2]) + k.shape[2] - q.shape[2]
    mask = torch.arange(k.shape[2])[None, :] <= positions[:, None]
    return F.scaled_dot_product_attention(q, k, k, attn_mask=mask, scale=0.25)


def in_a_window(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """At most seven keys are from before, as a sliding cache has them."""
    before = max(k.shape[2] - q.shape[2], 7) - 7
    query = (torch.arange(q.shape[2]) + before)[:, None]
    key = torch.arange(k.shape[2])[None, :]
    mask = (key <= query) & (query - key < 8)
    return F.scaled_dot_product_attention(q, k, k, attn_mask=mask, scale=0.25)


def twice(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """A size that is no sum, product or maximum of sizes: the mask stays."""
    positions = torch.arange(q.shape[2]) + k.shape[2] // 2
    mask = torch.arange(k.shape[2])[None, :] <= positions[:, None]
    return F.scaled_dot_product_attention(q, k, k, attn_mask=mask, scale=0.25)


def read_by(attend: Attend, dynamic: bool) -> tuple[str, bool, bool]:
    """What the mask means; whether the op has an offset, and whether it has the mask."""
    found = set()
    for queries, keys in ((5, 13), (6, 17), (4, 30)):
        q, k = torch.randn(1, 2, queries, 16), torch.randn(1, 2, keys, 16)
        assert_like_eager(attend, q, k, dynamic=dynamic)
        report = tile_backend.last_report()
        assert report is not None
        (site,) = report.fused
        assert site.call is not None
        given = site.call.arguments
        kind = str(site.bindings["mask"]).partition("(")[0]
        found.add((kind, given["offset"] is not None, given["mask"] is not None))
    (only,) = found
    return only


@pytest.mark.parametrize("attend", (at_the_end, in_a_window), ids=lambda a: a.__name__)
def test_a_size_is_read_from_a_tensor(attend: Attend) -> None:
    assert read_by(attend, dynamic=True) == ("causal", True, False)


def test_a_number_is_a_number() -> None:
    assert read_by(at_the_end, dynamic=False) == ("causal", False, False)


def test_what_cannot_be_computed_again_leaves_the_mask() -> None:
    kind, _, has_mask = read_by(twice, dynamic=True)
    assert kind == "causal"
    assert has_mask
