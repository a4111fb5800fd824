"""How `bench.attention` calls TileGym's ops: stand-ins compute what their sources say they do."""

from __future__ import annotations

import dataclasses
import math
import sys
import types
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from bench.attention_cases import Case
from bench.attention_tilegym import by_tilegym
from bench.versions import UnavailableError
from tests.plain_attention import agrees, directly
from tests.small_attention_cases import KINDS, WRITTEN_OUT


def fmha(q: Any, k: Any, v: Any, *, scaling: float, is_causal: bool) -> torch.Tensor:
    return F.scaled_dot_product_attention(
        q, k, v, is_causal=is_causal, scale=scaling, enable_gqa=True
    )


def gemma_attention(
    q: Any, k: Any, v: Any, *, scaling: float, soft_cap: float, window_size: int, is_causal: bool
) -> torch.Tensor:
    """Its kernel hides keys with `key - query < -window_size`, and none where that is 0."""
    assert is_causal
    k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], 1) for x in (k, v))
    scores = soft_cap * torch.tanh(q @ k.transpose(2, 3) * scaling / soft_cap)
    distance = torch.arange(k.shape[2])[None] - torch.arange(q.shape[2])[:, None]
    hidden = distance > 0
    if window_size:
        hidden |= distance < -window_size
    return torch.softmax(scores.masked_fill(hidden, -1.0e6), -1) @ v


def attention_sink(
    query: Any,
    key: Any,
    value: Any,
    sinks: Any,
    *,
    sm_scale: float,
    sliding_window: Any,
    start_q: Any,
) -> torch.Tensor:
    """Its kernel hides keys with `key < query - sliding_window + 1`."""
    batch, length, kv_heads, groups, width = query.shape
    q = query.reshape(batch, length, kv_heads * groups, width).transpose(1, 2)
    k, v = (x.transpose(1, 2).repeat_interleave(groups, 1) for x in (key, value))
    places = torch.arange(length)[:, None] + start_q
    keys = torch.arange(k.shape[2])[None]
    hidden = keys > places
    if sliding_window is not None:
        hidden |= keys < places - sliding_window + 1
    scores = (q @ k.transpose(2, 3) * sm_scale).masked_fill(hidden, -math.inf)
    column = sinks.reshape(1, -1, 1, 1).expand(batch, -1, length, 1)
    shares = torch.softmax(torch.cat([scores, column], -1), -1)[..., :-1]
    return (shares @ v).transpose(1, 2).reshape(batch, length, -1)


def attention_sink_decode(query: Any, *others: Any, start_q: Any, **given: Any) -> torch.Tensor:
    """Takes one query."""
    assert query.shape[1] == 1
    assert start_q.shape == (1,)
    return attention_sink(query, *others, start_q=start_q, **given)


OPS = types.SimpleNamespace(
    fmha=fmha,
    gemma_attention=gemma_attention,
    attention_sink=attention_sink,
    attention_sink_decode=attention_sink_decode,
)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.import_module", {"tilegym.ops": OPS}.__getitem__)


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("case", WRITTEN_OUT.values(), ids=WRITTEN_OUT)
def test_caps_and_sinks_have_ops_of_their_own(case: Case) -> None:
    case = dataclasses.replace(case, train=False)
    agrees(case, by_tilegym(case, case.inputs("cpu")), directly)


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("case", KINDS.values(), ids=KINDS)
def test_fmha_takes_two_kinds_of_mask(case: Case) -> None:
    case = dataclasses.replace(case, train=False)
    if case.mask in ("none", "causal"):
        agrees(case, by_tilegym(case, case.inputs("cpu")))
    else:
        with pytest.raises(UnavailableError, match=f"fmha takes no mask of the kind {case.mask}"):
            by_tilegym(case, case.inputs("cpu"))
    with pytest.raises(UnavailableError, match="no gradient"):
        by_tilegym(dataclasses.replace(case, train=True), [])


def test_where_it_is_not_installed_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tilegym", None)
    case = dataclasses.replace(KINDS["causal"], train=False)
    with pytest.raises(UnavailableError, match="TileGym cannot be imported"):
        by_tilegym(case, [])
