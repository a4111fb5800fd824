"""Generated code goes on where a lowering or a launch of ours fails, forward and backward."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch._inductor.utils import run_and_get_code

from tests.models.check import copies, outcome
from tests.planted_failures import raises
from tests.test_failure_running import fresh
from tile_backend import errors
from tile_backend.lowering import (
    inductor_ir,
    kernel_launch,
    oracle,
)
from tile_backend.lowering.budget import within_budget
from tile_backend.lowering.kernel_launch import KernelFallbackWarning
from tile_backend.lowering.launch_place import force_direct_launch

__all__ = ["fresh"]


def program(x: torch.Tensor, weight: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """A norm and a gate; their neighbours are Inductor's."""
    normed = weight * (x * torch.rsqrt(x.pow(2).mean(-1, True) + 1e-6))
    return F.silu(normed * 1.5) * up + x


def trained(caught: list[Any]) -> list[str]:
    """Compile and train with direct launches, assert eager's results; the ops in the code."""
    generator = torch.Generator().manual_seed(0)
    given = [torch.randn(s, generator=generator) for s in ((6, 32), (32,), (6, 32))]
    given = [t.requires_grad_() for t in given]
    eager = outcome(program, copies(given))
    exact = oracle.float64(lambda *args: outcome(program, args))(*copies(given))
    codes: list[str] = []
    torch._dynamo.reset()
    caches = torch._inductor.config.patch(fx_graph_cache=False)
    with (
        caches,
        torch._functorch.config.patch(enable_autograd_cache=False),
        force_direct_launch(),
        warnings.catch_warnings(record=True) as warned,
    ):
        warnings.simplefilter("always")
        options = {"tilegym.kernels": "always"}
        compiled = torch.compile(program, backend="tilegym", options=options)
        found, codes = run_and_get_code(lambda: outcome(compiled, copies(given)))
    caught += [w.message for w in warned if "tile_backend" in type(w.message).__module__]
    assert within_budget(found, exact, eager)
    return codes


def test_a_lowering_that_fails_calls_the_op_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward and backward, with one warning for each."""
    caught: list[Any] = []
    with monkeypatch.context() as patch:
        patch.setattr(inductor_ir, "_layouts", raises)
        codes = trained(caught)
    assert [type(w) for w in caught] == [errors.CompileFailed] * 2
    assert all("called through the dispatcher" in str(w) for w in caught)
    assert all("Planted: in the way" in str(w) for w in caught)
    assert len(codes) == 2
    assert all("torch.ops.tilegym." in code and "_tg." not in code for code in codes)


def test_launches_that_fail_in_generated_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward and backward, with one warning for each op."""
    caught: list[Any] = []
    with monkeypatch.context() as patch:
        patch.setattr(kernel_launch, "gpu_of", raises)
        patch.setattr(kernel_launch, "_calls", {})
        codes = trained(caught)
    assert all("_tg." in code for code in codes)
    assert [type(w) for w in caught] == [KernelFallbackWarning] * 4
    names = {str(w).split(" ", 1)[0] for w in caught}
    assert len(names) == 4, "two ops and their gradients"
