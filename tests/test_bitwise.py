"""tilegym.numerics="bitwise": only what has the bits of Inductor's code goes in.

Both codes are compiled as far as their graphs, but for one test that compiles to the end.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.norm_program import norm, x_and_more
from tests.trust_program import Compiled, compiled
from tile_backend.inductor import without_codegen
from tile_backend.lowering import memory_bound, oracle, reference, same_bits
from tile_backend.lowering.budget import within_budget

OFF = 1 + 2**-20


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No comparison of an earlier test, and no code of an earlier compile."""
    monkeypatch.setattr(same_bits, "known", {})
    with torch._inductor.config.patch(force_disable_caches=True):
        yield


def bitwise(*given: object, **options: object) -> Compiled:
    return compiled(*given, **{"numerics": "bitwise", "verify": "off", **options})  # type: ignore[arg-type]


def is_put_in(found: Compiled) -> bool:
    assert found.site.decision is not None
    return found.site.decision.op_in_graph or found.site.decision.respelled


@pytest.fixture
def a_bit_off(monkeypatch: pytest.MonkeyPatch) -> None:
    run = reference.run
    monkeypatch.setattr(reference, "run", lambda *given: tuple(r * OFF for r in run(*given)))


@pytest.mark.parametrize("train", (False, True))
@pytest.mark.parametrize("dynamic", (None, True))
@torch._dynamo.config.patch(specialize_float=True)
@pytest.mark.usefixtures("graphs_only")
def test_the_same_bits_go_in(train: bool, dynamic: bool | None) -> None:
    x, _, weight = x_and_more()
    found = bitwise(norm, x.requires_grad_(train), weight, dynamic=dynamic)
    assert is_put_in(found)
    assert found.site.certificate is None


@pytest.mark.parametrize("train", (False, True))
@pytest.mark.usefixtures("graphs_only", "a_bit_off")
def test_other_bits_stay_out_and_are_no_fallback(train: bool) -> None:
    x, _, weight = x_and_more()
    expected = norm(x, weight)
    found = bitwise(norm, x.requires_grad_(train), weight, kernels="auto")
    assert not is_put_in(found)
    found = bitwise(norm, x, weight)
    assert not is_put_in(found)
    assert found.site.decision is not None
    words = found.site.decision.evidence
    assert words.startswith("it differs from Inductor's code in "), words
    differing, of, values = (words.split()[i] for i in (6, 7, 8))
    # A result of 4 x 6 x 32; in training a gradient of the same size as well.
    assert (of, int(values)) == ("of", 768 * (1 + train))
    assert 0 < int(differing) <= int(values)
    exact = oracle.float64(norm)(x, weight)
    assert within_budget(found.output, exact, expected)
    assert not within_budget(expected * OFF, exact, expected), "the fault would show"


def causal(q: Tensor) -> Tensor:
    place = torch.arange(q.shape[2])
    return F.scaled_dot_product_attention(q, q, q, attn_mask=place <= place[:, None])


@pytest.mark.usefixtures("graphs_only")
def test_a_respelling_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    q = torch.randn(1, 2, 9, 8)
    found = bitwise(causal, q, kernels="auto", strict="no-fallback")
    assert found.site.decision is not None
    evidence = found.site.decision.evidence
    assert found.site.decision.respelled or "differs from Inductor's code" in evidence
    monkeypatch.setattr(same_bits, "known", {})
    monkeypatch.setattr(same_bits, "differing", lambda a, b: 1)
    found = bitwise(causal, q, kernels="auto", strict="no-fallback")
    assert not is_put_in(found)
    assert found.site.fallback is None


@pytest.mark.usefixtures("graphs_only")
def test_what_cannot_be_compared_stays_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_bound, "free", lambda device: 1000)
    x, _, weight = x_and_more()
    found = bitwise(norm, x, weight)
    assert not is_put_in(found)
    assert "its bits could not be compared with those of Inductor's code: too large" in str(
        found.site.decision and found.site.decision.evidence
    )


@pytest.mark.usefixtures("graphs_only")
def test_settings_of_the_compiler_are_told_apart() -> None:
    x, _, weight = x_and_more()
    bitwise(norm, x, weight)
    (settings,) = same_bits.known
    sites = dict(same_bits.known[settings])
    bitwise(norm, x, weight)
    assert same_bits.known == {settings: sites}, "compared once"
    theirs = {"tilegym.numerics": "bitwise", "tilegym.kernels": "always", "epilogue_fusion": False}
    torch.compiler.reset()
    torch.compile(norm, backend="tilegym", options=theirs)(x, weight)
    assert len(same_bits.known) == 2


def test_whole_compiles_of_original_and_op() -> None:
    """Down to C++: a whole compile of each, in the middle of the compile of the program."""
    x, _, weight = x_and_more()
    x.requires_grad_()
    found = bitwise(norm, x, weight)
    assert found.site.decision is not None
    gradient, x.grad = x.grad, None
    assert gradient is not None
    torch.compiler.reset()
    plain = torch.compile(norm)(x, weight)
    plain.sum().backward()
    if not is_put_in(found):
        assert "differs from Inductor's code" in found.site.decision.evidence
        assert torch.equal(found.output, plain)
        assert torch.equal(gradient, x.grad)
    else:
        assert torch.equal(found.output, plain)


@pytest.mark.parametrize(
    ("a", "b", "count"),
    (
        ([1.0, 2.0], [1.0, 2.0], 0),
        ([0.0, 1.0], [-0.0, 1.0], 1),
        ([float("nan"), 1.0], [float("nan"), 1.5], 1),
        ([float("inf"), 1.0], [float("inf"), 1.0], 0),
    ),
)
def test_bits_are_compared(a: list[float], b: list[float], count: int) -> None:
    assert same_bits.differing(torch.tensor(a), torch.tensor(b)) == count
    with without_codegen():
        complex_a, complex_b = (torch.tensor(v).to(torch.complex64) for v in (a, b))
        assert same_bits.differing(complex_a, complex_b) == count
