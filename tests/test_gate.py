"""Kernel or reference: what the gate answers for CPU tensors, and for fake tensors of a GPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from tile_backend.lowering import gate
from tile_backend.lowering.legality import Call
from tile_backend.lowering.reason import ReasonKind
from tile_backend.lowering.signature import declared
from tile_backend.patterns import attention, rms_norm, softmax


def call(fusion: Any, **given: Any) -> Call:
    op = fusion.FUSION.op()
    arguments = declared(op).filled(given)
    made = op.outputs(**arguments)
    outputs = made if isinstance(made, tuple) else (made,)
    return Call(op, arguments, outputs, outputs)


def heads(device: str, width: int = 64, dtype: torch.dtype = torch.bfloat16) -> Call:
    q = torch.empty(2, 4, 32, width, dtype=dtype, device=device)
    k = torch.empty(2, 2, 32, width, dtype=dtype, device=device)
    return call(attention, q=q, k=k, v=k, scale=0.125, is_causal=True)


def capped(device: str, dtype: torch.dtype = torch.bfloat16) -> Call:
    """Scores with a soft cap, which PyTorch writes to memory and a kernel does not."""
    q = torch.empty(2, 8, 1024, 64, dtype=dtype, device=device)
    return call(attention, q=q, k=q, v=q, scale=0.125, is_causal=True, softcap=50.0)


@pytest.fixture
def fake_gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Fake tensors on a device of compute capability 9.0 that this machine does not have."""
    monkeypatch.setattr(gate, "capability_of", lambda index: (9, 0))
    with FakeTensorMode() as mode:
        yield mode


def test_a_cpu_keeps_the_original_ops() -> None:
    verdict = gate.decide(attention.FUSION, heads("cpu"), "auto")
    assert verdict.decision == "reference"
    assert not verdict.put_in
    assert verdict.fallback is None
    assert verdict.decision.evidence == "on cpu the original ops are left to Inductor"


def test_always_on_a_cpu_is_a_fallback() -> None:
    verdict = gate.decide(attention.FUSION, heads("cpu"), "always")
    assert verdict.decision == "reference"
    assert verdict.put_in
    assert verdict.fallback is not None
    assert verdict.fallback.kind is ReasonKind.MISSING_KERNEL
    assert "no cuTile kernel runs on cpu" in verdict.fallback.text


def test_never_looks_at_nothing_else() -> None:
    verdict = gate.decide(attention.FUSION, heads("cpu"), "never")
    assert (verdict.decision, verdict.put_in, verdict.fallback) == ("reference", False, None)


def test_interpret_runs_the_kernel_on_a_cpu() -> None:
    verdict = gate.decide(attention.FUSION, heads("cpu"), "interpret")
    assert (verdict.decision, verdict.put_in, verdict.fallback) == ("interpreted", True, None)
    assert verdict.decision.evidence == 'tilegym.kernels is "interpret"'


def test_interpret_refuses_what_the_kernel_refuses() -> None:
    verdict = gate.decide(attention.FUSION, heads("cpu", dtype=torch.float64), "interpret")
    assert (verdict.decision, verdict.put_in) == ("reference", False)
    assert verdict.fallback is not None
    assert verdict.fallback.kind is ReasonKind.DTYPE_LIMIT


def test_interpret_refuses_a_gpu_with_a_sentence(fake_gpu: Any) -> None:
    verdict = gate.decide(attention.FUSION, heads("cuda"), "interpret")
    assert (verdict.decision, verdict.put_in) == ("reference", False)
    assert verdict.fallback is not None
    words = "the interpreter runs kernels on CPU tensors only, and these are on cuda:0"
    assert verdict.fallback.text == words
    assert "move model and inputs to the CPU" in verdict.fallback.fix


def test_interpret_needs_cutile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "has_cutile", lambda: False)
    verdict = gate.decide(attention.FUSION, heads("cpu"), "interpret")
    assert verdict.fallback is not None
    assert verdict.fallback.kind is ReasonKind.MISSING_DEPENDENCY


def test_a_gpu_runs_the_kernel_that_is_estimated_to_win(fake_gpu: Any) -> None:
    verdict = gate.decide(attention.FUSION, capped("cuda"), "auto")
    assert (verdict.decision, verdict.put_in, verdict.fallback) == ("kernel", True, None)
    assert verdict.decision.evidence.startswith("estimated:")


def test_a_gpu_leaves_a_lone_norm_to_inductor(fake_gpu: Any) -> None:
    x = torch.empty(4, 64, device="cuda")
    verdict = gate.decide(rms_norm.FUSION, call(rms_norm, x=x, eps=1e-6), "auto")
    assert (verdict.decision, verdict.put_in, verdict.fallback) == ("reference", False, None)
    assert verdict.decision.evidence.startswith("estimated:")


def test_always_takes_the_kernel_on_a_gpu(fake_gpu: Any) -> None:
    x = torch.empty(4, 64, device="cuda")
    verdict = gate.decide(softmax.FUSION, call(softmax, x=x), "always")
    assert (verdict.decision, verdict.put_in, verdict.fallback) == ("kernel", True, None)


@pytest.mark.parametrize(("kernels", "put_in"), [("auto", False), ("always", True)])
def test_what_the_kernel_refuses_falls_back(fake_gpu: Any, kernels: str, put_in: bool) -> None:
    verdict = gate.decide(attention.FUSION, capped("cuda", torch.float64), kernels)
    assert (verdict.decision, verdict.put_in) == ("reference", put_in)
    assert verdict.fallback is not None
    assert verdict.fallback.kind is ReasonKind.DTYPE_LIMIT
    assert "float64" in verdict.fallback.text


def test_an_old_gpu_has_no_kernel(fake_gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "capability_of", lambda index: (7, 5))
    verdict = gate.decide(attention.FUSION, capped("cuda"), "auto")
    assert verdict.fallback is not None
    assert "compute capability 7.5" in verdict.fallback.text


def test_a_missing_package_is_named_with_its_install(
    fake_gpu: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "has_cutile", lambda: False)
    verdict = gate.decide(attention.FUSION, capped("cuda"), "auto")
    assert verdict.fallback is not None
    assert verdict.fallback.kind is ReasonKind.MISSING_DEPENDENCY
    assert 'pip install "tile-backend[kernels]"' in verdict.fallback.fix
