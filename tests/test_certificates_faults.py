"""A planted bad rewrite fails its certificate, whatever is wrong with it, and is not put in.

The oracle is the original code: a wrong reference, a wrong binding or a wrong kernel cannot hide
behind our own definition of the op.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import tile_backend
from tests.norm_program import norm, x_and_more
from tests.trust_program import Compiled, compiled
from tile_backend import Fusion, Op, Spelling
from tile_backend.errors import CertificateFailed, FallbackRefused
from tile_backend.lowering import certify, interpreted
from tile_backend.lowering.fusion import MaskFacts, same_as
from tile_backend.lowering.interpreter.faults import FaultKind, KernelFault
from tile_backend.lowering.mask import proof
from tile_backend.lowering.reason import ReasonKind
from tile_backend.patterns import _attention_on_cpu
from tile_backend.registry import unregister

pytestmark = pytest.mark.usefixtures("graphs_only")
OFF = 1.01


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """No certificate of an earlier test."""
    monkeypatch.setattr(certify, "known", {})


def assert_caught(run: Callable[..., Compiled], expected: Tensor, words: str = "max error") -> None:
    """The site keeps its code, says so, warns once; the result is right; no-fallback raises."""
    found = run()
    site = found.site
    assert site.certificate is not None
    assert site.certificate.verdict == "failed"
    assert words in site.certificate.text
    assert site.decision is not None
    assert (site.decision, site.decision.op_in_graph, site.decision.respelled) == (
        "reference",
        False,
        False,
    )
    assert site.fallback is not None
    assert site.fallback.kind is ReasonKind.VERIFY_FAILED
    assert [type(w) for w in found.warned] == [CertificateFailed]
    assert "FAILED x1: " in found.report.to_text()
    torch.testing.assert_close(found.output, expected)
    with pytest.raises(Exception, match="its certificate failed") as caught:
        run(strict="no-fallback")
    assert isinstance(caught.value.inner_exception, FallbackRefused)  # type: ignore[attr-defined]


def mixed(x: Tensor, y: Tensor) -> Tensor:
    """What a user's own fusion finds."""
    return torch.tanh(x) * torch.sigmoid(y)


def fusion(reference: Callable[..., Any] = mixed, **spelling: Any) -> Fusion:
    op = Op("planted", "(Tensor x, Tensor y) -> Tensor", reference, same_as("x"))
    hole = tile_backend.Tensor("... D")
    return Fusion(
        name="planted",
        summary="a user's own",
        ops=(op,),
        holes={"x": hole, "y": hole},
        spellings=(Spelling(mixed, **spelling),),
        alike=(("x", "y"),),
    )


def clamped(x: Tensor, y: Tensor) -> Tensor:
    """NaN becomes -1 and infinity 1, as a minimum and a maximum that ignore NaN would have it."""
    return mixed(x.nan_to_num(-1.0, 1.0, -1.0), y)


def squashed(x: Tensor, y: Tensor) -> Tensor:
    """Not what it was for numbers whose squares overflow, and for no others."""
    return mixed(x, y) + 0 * x.square()


FAULTS = {
    "reference": fusion(lambda x, y: torch.tanh(x) * torch.sigmoid(y) * OFF),
    "binding": fusion(transform=lambda x, y: {"x": y, "y": x}),
    "result": fusion(finish=lambda result: result.flip(-1)),
}


@pytest.fixture
def planted(request: pytest.FixtureRequest) -> Iterator[None]:
    # Each with an op of its own: an op is defined once in a process.
    declared: Fusion = FAULTS[request.param]
    op = dataclasses.replace(declared.ops[0], name=f"planted_{request.param}")
    tile_backend.register(dataclasses.replace(declared, ops=(op,)))
    yield
    unregister("planted")


@pytest.mark.usefixtures("planted")
@pytest.mark.parametrize("planted", FAULTS, indirect=True)
def test_a_wrong_declaration() -> None:
    x, y = torch.randn(3, 8), torch.randn(3, 8)
    assert_caught(lambda **o: compiled(mixed, x, y, **o), mixed(x, y))


NOT_FINITE = {"lost": clamped, "made": squashed}


@pytest.mark.parametrize("fault", NOT_FINITE)
def test_what_shows_only_beside_nan_infinity_and_huge_numbers(fault: str) -> None:
    declared = fusion(NOT_FINITE[fault])
    op = dataclasses.replace(declared.ops[0], name=f"planted_{fault}")
    tile_backend.register(dataclasses.replace(declared, ops=(op,)))
    try:
        x, y = torch.randn(4, 8), torch.randn(4, 8)
        words = "with NaN, infinity and huge numbers in l_x_: "
        assert_caught(lambda **o: compiled(mixed, x, y, **o), mixed(x, y), words)
    finally:
        unregister("planted")


def of_the_gradient(x: Tensor, y: Tensor) -> Tensor:
    """As `mixed`, but NaN in the gradient of the result is lost on the way back."""

    class Lossy(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, result: Tensor) -> Tensor:
            return result.clone()

        @staticmethod
        def backward(ctx: Any, slope: Tensor) -> Tensor:
            return slope.nan_to_num(0.0)

    found: Tensor = Lossy.apply(mixed(x, y))  # type: ignore[no-untyped-call]
    return found


def test_what_shows_only_in_the_gradient_of_a_result() -> None:
    declared = fusion(of_the_gradient)
    op = dataclasses.replace(declared.ops[0], name="planted_gradient")
    tile_backend.register(dataclasses.replace(declared, ops=(op,)))
    try:
        x, y = torch.randn(4, 8, requires_grad=True), torch.randn(4, 8)
        words = "huge numbers in the gradient of mul: gradient of l_x_: "
        assert_caught(lambda **o: compiled(mixed, x, y, **o), mixed(x, y), words)
    finally:
        unregister("planted")


def wrong(names: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interpreted kernels of these ops write results that are off."""
    run = interpreted.run

    def off(record: Any, arguments: Any, outputs: Any) -> None:
        run(record, arguments, outputs)
        for output in outputs if record.op.name == names else ():
            output.mul_(OFF)

    monkeypatch.setattr(interpreted, "run", off)


def test_a_wrong_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong("rms_norm", monkeypatch)
    x, _, weight = x_and_more()
    assert_caught(lambda **o: compiled(norm, x, weight, kernels="interpret", **o), norm(x, weight))


def test_a_wrong_kernel_of_the_backward(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong("rms_norm_grad", monkeypatch)
    x, _, weight = x_and_more()
    x.requires_grad_()

    def run(**options: Any) -> Compiled:
        return compiled(norm, x, weight, kernels="interpret", **options)

    assert_caught(run, norm(x, weight), "outside its error budget: gradient of l_x_: max error")


def test_a_kernel_that_breaks_a_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise KernelFault(FaultKind.TILE_OUTSIDE, "planted", "", "planted")

    monkeypatch.setattr(interpreted, "run", broken)
    x, _, weight = x_and_more()

    def run(**options: Any) -> Compiled:
        return compiled(norm, x, weight, kernels="interpret", **options)

    assert_caught(run, norm(x, weight), "the new code raises KernelFault: ")


def attend(q: Tensor, padding: Tensor) -> Tensor:
    place = torch.arange(q.shape[2])
    mask = (place <= place[:, None])[None, None] & padding[:, None, None, :]
    return F.scaled_dot_product_attention(q, q, q, attn_mask=mask)


def causal(q: Tensor) -> Tensor:
    place = torch.arange(q.shape[2])
    return F.scaled_dot_product_attention(q, q, q, attn_mask=place <= place[:, None])


def test_a_wrong_respelling(monkeypatch: pytest.MonkeyPatch) -> None:
    run = _attention_on_cpu.run

    def without_mask(arguments: Any) -> Any:
        return run({**arguments, "is_causal": False})

    monkeypatch.setattr(_attention_on_cpu, "run", without_mask)
    q = torch.randn(1, 2, 9, 8)
    assert_caught(lambda **o: compiled(causal, q, kernels="auto", **o), causal(q))


def test_a_respelling_that_loses_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain `is_causal`, whatever the numbers are."""
    monkeypatch.setattr(_attention_on_cpu, "harmless", lambda *_: True)
    q = torch.randn(1, 2, 9, 8)
    words = "with NaN, infinity and huge numbers in l_q_: "
    assert_caught(lambda **o: compiled(causal, q, kernels="auto", **o), causal(q), words)


def test_a_mask_that_was_misunderstood(monkeypatch: pytest.MonkeyPatch) -> None:
    """Padding that is left out shows only where something is padded: here nothing is."""
    facts_of = proof.facts_of

    def without_padding(*given: Any) -> MaskFacts:
        found = facts_of(*given)
        said = {name: fact for name, fact in found.arguments.items() if name != "padding"}
        return dataclasses.replace(found, arguments=said)

    monkeypatch.setattr(proof, "facts_of", without_padding)
    q, padding = torch.randn(2, 2, 9, 8), torch.ones(2, 9, dtype=torch.bool)
    assert_caught(lambda **o: compiled(attend, q, padding, **o), attend(q, padding))


def test_a_gradient_that_is_missing() -> None:
    """It is judged as zeros, not left out."""
    given = torch.ones(3)
    ours, exact, theirs = certify.filled([None, None], [given, None], [given, None])
    assert torch.equal(ours[0] if ours[0] is not None else given, torch.zeros(3))
    assert torch.equal(exact[0] if exact[0] is not None else -given, given)
    assert ours[1] is exact[1] is theirs[1] is None
