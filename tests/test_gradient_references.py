"""Declared gradients in plain PyTorch: what every op keeps and makes of it, against float64.

The ops of each backward run as their references, so this is about the formulas and about what is
saved; their kernels have tests of their own.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch

from tests.op_samples import Case, Labels, Mask, Weight, arguments
from tests.test_gradient_kernels import gradients
from tile_backend.lowering import autograd, kernel_launch, oracle
from tile_backend.lowering.custom_op import record

ROWS, GAIN = (3, 5, 37), Weight((37,), wide=True)
PAIR = {"gate": ROWS, "up": ROWS}
TABLES = {"cos": (2, 1, 5, 6), "sin": (2, 1, 5, 6)}
HEADS: Mapping[str, Any] = {
    "q": (2, 4, 5, 6),
    "k": (2, 2, 7, 6),
    "v": (2, 2, 7, 9),
    **dict.fromkeys(("mask", "padding", "segments", "offset", "sinks")),
    "scale": 0.4,
}
LOGITS = {"logits": ROWS, "labels": Labels((3, 5))}
LAYER = {
    "hidden": (3, 5, 24),
    "weight": (37, 24),
    "bias": Weight((37,)),
    "labels": Labels((15,)),
}
CASES: dict[str, Case] = {
    "rms_norm": Case("rms_norm", {"x": ROWS, "weight": GAIN, "eps": 1e-6, "offset": 1.0}),
    "add_rms_norm": Case(
        "add_rms_norm", {"x": ROWS, "residual": ROWS, "weight": GAIN, "eps": 1e-6}
    ),
    "rms_norm_add": Case(
        "rms_norm_add", {"x": ROWS, "residual": ROWS, "weight": GAIN, "eps": 1e-6}
    ),
    "layer_norm": Case("layer_norm", {"x": ROWS, "weight": GAIN, "bias": GAIN, "eps": 1e-5}),
    "silu_mul": Case("silu_mul", {**PAIR, "alpha": 1.702}),
    "gelu_mul": Case("gelu_mul", PAIR),
    "gelu_mul_tanh": Case("gelu_mul", {**PAIR, "approximate": "tanh"}),
    "rotary": Case("rotary", {"x": (2, 3, 5, 6), **TABLES}),
    "rotary_qk": Case("rotary_qk", {"q": (2, 4, 5, 6), "k": (2, 2, 5, 6), **TABLES}),
    "softmax": Case("softmax", {"x": ROWS}),
    "attention": Case("attention", {**HEADS, "is_causal": True}),
    "attention_capped": Case("attention", {**HEADS, "softcap": 0.7}),
    "attention_with_sinks": Case("attention", {**HEADS, "sinks": (4,)}),
    "attention_filled": Case("attention", {**HEADS, "mask": Mask((2, 1, 5, 7)), "fill": -3.0}),
    "cross_entropy": Case("cross_entropy", LOGITS),
    "cross_entropy_smoothed": Case("cross_entropy", {**LOGITS, "label_smoothing": 0.25}),
    "linear_cross_entropy": Case("linear_cross_entropy", LAYER),
}
CONSTANT = ("cos", "sin")


@pytest.fixture(autouse=True)
def declared(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As on a GPU, but for the kernels. What falls back on the reference's gradient fails."""
    monkeypatch.setattr(autograd, "launches_on", lambda device: True)
    kernel_launch.warn_once.cache_clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error", kernel_launch.KernelFallbackWarning)
        yield


def three_ways(case: Case, given: Mapping[str, Any]) -> list[list[torch.Tensor | None]]:
    """The op's own, those of its reference in float64, and in float32."""
    wanted = {n: v.requires_grad for n, v in given.items() if isinstance(v, torch.Tensor)}
    wide = {
        n: v.detach().double().requires_grad_() if wanted.get(n) else oracle.widened(v)
        for n, v in given.items()
    }
    promised = case.record.op.outputs(**given)
    promised = [promised] if isinstance(promised, torch.Tensor) else promised
    generator = torch.Generator().manual_seed(1)
    slopes = [torch.randn(p.shape, generator=generator) for p in promised]
    reference = case.record.op.reference
    return [
        gradients(case.record.overload, given, slopes),
        gradients(oracle.float64(reference), wide, slopes),
        gradients(reference, given, slopes),
    ]


def leaves(case: Case) -> dict[str, Any]:
    given = arguments(case, torch.float32, grad=True)
    return {n: v.detach() if n in CONSTANT else v for n, v in given.items()}


@pytest.mark.parametrize("name", CASES)
def test_declared_gradients(name: str) -> None:
    ours, exact, theirs = three_ways(CASES[name], leaves(CASES[name]))
    assert len(ours) == sum(
        getattr(value, "requires_grad", False) for value in leaves(CASES[name]).values()
    )
    verdict = oracle.within_budget(ours, exact, theirs)
    assert verdict, str(verdict)


@pytest.mark.parametrize("up_first", (False, True))
@pytest.mark.parametrize("name", ("silu_mul", "gelu_mul"))
def test_packed_gradients(name: str, up_first: bool) -> None:
    """Halves of one tensor get their gradients in one, in the order in which they lie there."""
    generator = torch.Generator().manual_seed(0)
    both = torch.randn(3, 5, 74, generator=generator).requires_grad_()
    dout = torch.randn(3, 5, 37, generator=generator)

    def run(function: Any, packed: torch.Tensor) -> torch.Tensor:
        halves = packed.chunk(2, -1)
        gate, up = halves[::-1] if up_first else halves
        result = function(gate=gate, up=up)
        return torch.autograd.grad(result, packed, dout.to(result.dtype))[0]

    reference = record(name).op.reference
    wide = both.detach().double().requires_grad_()
    exact = run(oracle.float64(reference), wide)
    verdict = oracle.within_budget(run(record(name).overload, both), exact, run(reference, both))
    assert verdict, str(verdict)
