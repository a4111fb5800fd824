"""A gradient of ours that fails gives way to the one that is derived from the reference."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from tests.op_samples import Case
from tests.planted_failures import raises
from tests.test_failure_running import CASES, fresh, one_warning, values_of
from tile_backend.lowering import (
    custom_op,
    reference,
)
from tile_backend.lowering.kernel_launch import KernelFallbackWarning
from tile_backend.lowering.launch_place import force_direct_launch

__all__ = ["fresh"]
DECLARED = [case for case in CASES if case.record.op.gradient]
ops = torch.ops.tilegym


def gradients_of(case: Case) -> list[torch.Tensor | None]:
    """Of all results, by every tensor that takes one; as where kernels run."""
    values = values_of(case, grad=True)
    wanted = [v for v in values if isinstance(v, torch.Tensor) and v.requires_grad]
    with force_direct_launch():
        results = reference.as_tuple(case.record.overload(*values))
        live = [r for r in results if r.requires_grad]
        total = sum(r.sum() * (i + 1) for i, r in enumerate(live))
        assert isinstance(total, torch.Tensor)
        return list(torch.autograd.grad(total, wanted, allow_unused=True))


def same(one: torch.Tensor | None, other: torch.Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    return torch.equal(one, other)


@contextlib.contextmanager
def changed(owner: Any, name: str, value: Any) -> Iterator[None]:
    """An attribute of a frozen declaration."""
    usual = getattr(owner, name)
    object.__setattr__(owner, name, value)
    try:
        yield
    finally:
        object.__setattr__(owner, name, usual)


@pytest.mark.parametrize("part", ("backward", "applies"))
@pytest.mark.parametrize("case", DECLARED, ids=lambda case: case.op)
def test_a_gradient_that_fails_gives_way_to_the_reference(case: Case, part: str) -> None:
    """The declared backward, or the question whether it applies."""
    gradient = case.record.op.gradient
    assert gradient is not None
    with changed(gradient, "applies", lambda *_: False):
        expected = gradients_of(case)
    words = "differentiates its reference"
    with changed(gradient, "applies", lambda *_: True), changed(gradient, part, raises):
        found = one_warning(lambda: gradients_of(case), KernelFallbackWarning, case.op, words)
    assert len(found) >= 1
    assert all(map(same, found, expected))


@pytest.mark.parametrize("name", ("attention", "cross_entropy", "linear_cross_entropy"))
def test_what_runs_forward_for_a_gradient_gives_way_as_well(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The op that saves more for the backward than the op itself."""
    case = next(case for case in DECLARED if case.op == name)
    gradient = case.record.op.gradient
    assert gradient is not None
    assert gradient.saving
    with changed(gradient, "applies", lambda *_: False):
        expected = gradients_of(case)
    saving, prepared = custom_op.record(gradient.saving), custom_op._prepared

    def fails(defined: Any, args: Any) -> Any:
        return raises() if defined.op is saving.op else prepared(defined, args)

    monkeypatch.setattr(custom_op, "_prepared", fails)
    found = one_warning(lambda: gradients_of(case), KernelFallbackWarning, name)
    assert all(map(same, found, expected))


def test_sizes_that_do_not_fit_are_still_an_error() -> None:
    """Nothing takes its place, and no warning says so."""
    x = torch.randn(3, 8, requires_grad=True)
    with warnings.catch_warnings(), force_direct_launch():
        warnings.simplefilter("error")
        with pytest.raises(RuntimeError, match="length 7"):
            ops.rms_norm(x, torch.ones(7), 1e-6)
