"""Attention whose mask is left out on a CPU: NaN and infinity stay where the mask kept them.

A mask tensor is added to every score, so that NaN at a key that it hides is NaN in every result.
Bit for bit the original's where that is possible: the same results where all numbers are finite,
and NaN and infinity at the same places, forward and backward, where they are not.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import tile_backend
from tests.core_graph import Captured, capture
from tile_backend.lowering.random_inputs import make_unusual
from tile_backend.lowering.site import Site
from tile_backend.options import Options
from tile_backend.patterns import _attention_on_cpu as on_cpu

F32, BF16, F16 = torch.float32, torch.bfloat16, torch.float16
Tensors = dict[str, torch.Tensor]
Rule = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(positions of the queries, of the keys) -> whether a query sees a key."""


def causal(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    return key <= query


def window(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    return (key <= query) & (query - key < 100)


def chunk(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    return (key <= query) & (query // 130 == key // 130)


def everything(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    return (key <= query) | (key > query)


def visible(rule: Rule, q: torch.Tensor) -> torch.Tensor:
    place = torch.arange(q.shape[2])
    return rule(place[:, None], place)


def expanded(x: torch.Tensor) -> torch.Tensor:
    """repeat_kv."""
    batch, heads, length, width = x.shape
    return x[:, :, None].expand(batch, heads, 2, length, width).reshape(batch, -1, length, width)


def numbers(mask: torch.Tensor, q: torch.Tensor, low: float) -> torch.Tensor:
    return torch.zeros_like(mask, dtype=q.dtype).masked_fill(~mask, low)


def softmax(scores: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return F.softmax(scores, dim=-1, dtype=torch.float32).to(v.dtype) @ expanded(v)


def sdpa(rule: Rule, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    mask = visible(rule, q)
    return F.scaled_dot_product_attention(q, expanded(k), expanded(v), attn_mask=mask, scale=0.25)


def sdpa_added(rule: Rule, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    mask = numbers(visible(rule, q), q, torch.finfo(q.dtype).min)
    return F.scaled_dot_product_attention(q, expanded(k), expanded(v), attn_mask=mask, scale=0.25)


def added(rule: Rule, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    mask = numbers(visible(rule, q), q, torch.finfo(q.dtype).min)
    return softmax(q @ expanded(k).transpose(2, 3) * 0.25 + mask, v)


def added_to_scaled_q(rule: Rule, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> Any:
    mask = numbers(visible(rule, q), q, -math.inf)
    return softmax((q * 0.25) @ expanded(k).transpose(2, 3) + mask, v)


def filled(rule: Rule, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    scores = q @ expanded(k).transpose(2, 3) * 0.25
    return softmax(scores.masked_fill(~visible(rule, q), -math.inf), v)


def selected(rule: Rule, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    scores = q @ expanded(k).transpose(2, 3) * 0.25
    return softmax(torch.where(visible(rule, q), scores, torch.finfo(q.dtype).min), v)


BY_HAND = (added, added_to_scaled_q, filled, selected)
PROGRAMS = [
    *((form, causal, 40, dtype) for form in (sdpa, sdpa_added, *BY_HAND) for dtype in (F32, BF16)),
    *((form, rule, 300, F32) for form in (sdpa, filled) for rule in (window, chunk)),
    *((sdpa_added, window, 300, BF16), (added, chunk, 300, BF16)),
    *((sdpa, everything, 6, F32), (sdpa, causal, 6, F32), (sdpa, causal, 6, F16)),
]
"""form, rule, length, dtype. With 6 keys the kernel with is_causal drops a NaN that is seen."""
IDS = [f"{f.__name__}-{r.__name__}-{n}-{str(d)[6:]}" for f, r, n, d in PROGRAMS]


def inputs(length: int, dtype: torch.dtype) -> Tensors:
    """Laid out as projections are, and the gradient of the result."""
    generator = torch.Generator().manual_seed(length)
    heads = {"q": 4, "k": 2, "v": 2, "slope": 4}
    return {
        name: torch.randn(1, length, n, 16, generator=generator).to(dtype).transpose(1, 2)
        for name, n in heads.items()
    }


def captured(form: Any, rule: Rule, length: int, dtype: torch.dtype) -> tuple[Captured, Any, Site]:
    """The graph, the same rewritten, and its site."""
    given = inputs(length, dtype)
    del given["slope"]

    def program(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        attended: torch.Tensor = form(rule, q, k, v)
        return attended

    found = capture(program, {n: x.requires_grad_() for n, x in given.items()})
    ours, sites = found.rewritten(Options())
    (site,) = (site for site in sites if site.fusion == "attention")
    assert site.decision is not None
    assert site.decision.respelled
    return found, ours, site


def outcome(found: Captured, function: Callable[..., Any], given: Tensors) -> list[torch.Tensor]:
    """The result, and the gradients of q, k and v."""
    leaves = {n: x.detach().requires_grad_() for n, x in given.items() if n != "slope"}
    names = [node.name.strip("lL_") for node in found.module.graph.find_nodes(op="placeholder")]
    (result,) = function(*(leaves[name] for name in names))
    return [result.detach(), *torch.autograd.grad(result, list(leaves.values()), given["slope"])]


def kinds(x: torch.Tensor) -> torch.Tensor:
    """0 where a number is finite; else which it is."""
    return x.isnan() + 2 * (x == math.inf) + 4 * (x == -math.inf)


@pytest.mark.parametrize("program", PROGRAMS, ids=IDS)
def test_they_are_where_the_original_has_them(program: Any) -> None:
    found, ours, _ = captured(*program)
    for place in ("q", "k", "v", "slope"):
        for seed in range(3):
            given = inputs(*program[2:])
            make_unusual(given[place], torch.Generator().manual_seed(seed))
            expected, actual = (outcome(found, f, given) for f in (found.module, ours))
            assert any(kinds(x).any() for x in expected), "nothing is tried"
            for name, a, b in zip(("result", "q", "k", "v"), actual, expected, strict=True):
                assert torch.equal(kinds(a), kinds(b)), f"{place}, seed {seed}: {name}"


@pytest.mark.parametrize("value", (math.nan, math.inf, -math.inf, 8e37, -3e38))
@pytest.mark.parametrize("place", ("q", "k", "v", "slope"))
def test_one_number(place: str, value: float) -> None:
    """In the first row, in the middle and in the last, of more than one block of the kernel."""
    found, ours, _ = captured(sdpa, causal, 600, F32)
    for row in (0, 300, 599):
        given = inputs(600, F32)
        given[place][0, 0, row, 3] = value
        for a, b in zip(*(outcome(found, f, given) for f in (ours, found.module)), strict=True):
            assert torch.equal(kinds(a), kinds(b)), f"row {row}"


@pytest.mark.parametrize("dtype", (F32, BF16, F16), ids=str)
@pytest.mark.parametrize("length", (6, 40, 600))
def test_finite_numbers_have_the_bits_that_the_mask_gives(
    length: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, ours, _ = captured(sdpa, causal, length, dtype)
    monkeypatch.setattr(on_cpu, "added", None)  # no mask is made
    given = inputs(length, dtype)
    expected, actual = (outcome(found, f, given) for f in (found.module, ours))
    # But for k and v: the sum over the queries' heads is autograd's there, and the kernel's here.
    assert all(torch.equal(a, b) for a, b in zip(actual[:2], expected[:2], strict=True))


def test_what_is_harmless() -> None:
    x = torch.full((1, 2, 3, 4), 1e15)
    assert on_cpu.harmless(1.0, x, x)
    assert not on_cpu.harmless(1.0, x, x, x)
    assert not on_cpu.harmless(1e9, x, x)
    for value in (math.nan, math.inf, -math.inf, 3e38):
        other = x.clone()
        other[0, 1, 2, 3] = value
        assert not on_cpu.harmless(1.0, other)
    assert on_cpu.harmless(1.0, torch.full((3, 4), 1e18, dtype=BF16))


def rows_with_nan(result: torch.Tensor) -> list[int]:
    return [i for i in range(result.shape[2]) if result[0, 0, i].isnan().any()]


def test_a_compiled_program_has_the_rows_of_eager() -> None:
    """NaN in row 2 of q is NaN in row 2; in row 2 of k or v it is NaN everywhere."""

    def program(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=visible(causal, q))

    torch._dynamo.reset()
    compiled = torch.compile(program, backend="tilegym")
    found = {}
    for place in "qkv":
        given = {name: torch.randn(1, 2, 6, 8) for name in "qkv"}
        given[place][0, 0, 2, 3] = math.nan
        found[place] = rows_with_nan(compiled(**given))
        assert found[place] == rows_with_nan(program(**given))
    assert found == {"q": [2], "k": list(range(6)), "v": list(range(6))}
    report = tile_backend.last_report()
    assert report is not None
    assert [site.decision and site.decision.respelled for site in report.fused] == [True]


def test_what_the_user_wrote_with_is_causal_stays() -> None:
    def program(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    given = {name: torch.randn(1, 2, 6, 8) for name in "qkv"}
    given["q"][0, 0, 2, 3] = math.nan
    for kernels in ("auto", "always"):
        ours, sites = capture(program, given).rewritten(Options(kernels=kernels))
        assert [s.decision and s.decision.respelled for s in sites] == [False]
        assert rows_with_nan(ours(*given.values())[0]) == rows_with_nan(program(**given))


def test_decoding_with_unexpanded_keys() -> None:
    """The mask stays there, so all is as it was."""

    def step(
        q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, length: torch.Tensor
    ) -> torch.Tensor:
        mask = torch.arange(32)[None, :] <= (torch.arange(1) + length)[:, None]
        return F.scaled_dot_product_attention(q, expanded(k), expanded(v), mask, scale=0.25)

    torch._dynamo.reset()
    compiled = torch.compile(step, backend="tilegym")
    tried = 0
    for place in "qkv":
        for seed in range(4):
            given = {"q": torch.randn(2, 4, 1, 16)} | {n: torch.randn(2, 2, 32, 16) for n in "kv"}
            make_unusual(given[place], torch.Generator().manual_seed(seed))
            expected = step(**given, length=torch.tensor(9))
            actual = compiled(**given, length=torch.tensor(9))
            assert torch.equal(kinds(actual), kinds(expected)), f"{place}, seed {seed}"
            tried += bool(kinds(expected).any())
    assert tried >= 9
    report = tile_backend.last_report()
    assert report is not None
    (site,) = report.fused
    assert site.decision is not None
    assert (site.decision.respelled, site.decision.op_in_graph) == (True, False)
