"""Holds a compiled function against eager: outputs, inputs written in place, and gradients.

Everything is compared within the error budget; the oracle is the function itself in float64.
"""

from __future__ import annotations

import contextlib
import functools
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.utils import _pytree as pytree

import tile_backend
from tests.models.run import REWRITTEN
from tile_backend.errors import InternalFailure
from tile_backend.inductor import without_codegen
from tile_backend.lowering import oracle
from tile_backend.lowering.budget import within_budget

Function = Callable[..., Any]


def copies(inputs: Sequence[Any]) -> list[Any]:
    """Equal inputs with their strides; what shares memory, as views do, shares it again."""
    made: dict[int, torch.UntypedStorage] = {}

    def copy(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        storage = value.untyped_storage()
        shared = made.setdefault(storage.data_ptr(), storage.clone())
        found = torch.empty(0, dtype=value.dtype).set_(
            shared, value.storage_offset(), value.shape, value.stride()
        )
        return found.requires_grad_(value.requires_grad)

    return [copy(value) for value in inputs]


def leaves(value: Any) -> list[torch.Tensor]:
    return [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, torch.Tensor)]


def outcome(function: Function, inputs: Sequence[Any]) -> list[torch.Tensor]:
    """Outputs, inputs after the call, and the gradients of a fixed sum of the outputs."""
    outputs = leaves(function(*inputs))
    differentiable = [t for t in outputs if t.requires_grad]
    wanted = [t for t in leaves(inputs) if t.requires_grad]
    gradients: Sequence[torch.Tensor | None] = ()
    if differentiable and wanted:
        total = sum((t * direction(t)).sum() for t in differentiable)
        gradients = torch.autograd.grad(total, wanted, allow_unused=True)
    missing = [torch.tensor(g is None) for g in gradients]
    present = [g for g in gradients if g is not None]
    return [t.detach() for t in (*outputs, *leaves(inputs), *missing, *present)]


def direction(like: torch.Tensor) -> torch.Tensor:
    """Different weights for all elements, so that a gradient in the wrong place shows."""
    steps = torch.arange(like.numel(), device=like.device, dtype=torch.float64)
    return torch.cos(steps + 0.5).reshape(like.shape).to(like.dtype)


def inside(function: Function, around: Callable[[], Any]) -> Function:
    """The function, called under a mode of the caller's, such as autocast."""

    def run(*args: Any) -> Any:
        with around():
            return function(*args)

    return run


def agrees(eager: Sequence[torch.Tensor], exact: Sequence[torch.Tensor]) -> bool:
    """Half of bfloat16's digits are right, to which a program may round inside, of all values.

    Where the oracle computes something else, eager's error and with it the budget has no bound.
    """
    digits = math.sqrt(torch.finfo(torch.bfloat16).eps)
    for some, true in zip(eager, exact, strict=True):
        if not some.is_floating_point():
            continue
        finite = true.isfinite() & some.isfinite()
        far = (some.to(true.dtype)[finite] - true[finite]).norm()
        if far > digits * true[finite].norm():
            return False
    return True


def assert_like_eager(
    function: Function,
    *inputs: Any,
    options: Mapping[str, Any] = REWRITTEN,
    dynamic: bool | None = None,
    around: Callable[[], Any] = contextlib.nullcontext,
    found: Mapping[str, int] | None = None,
    oracle_of: Function | None = None,
) -> tile_backend.Report:
    """Assert that backend="tilegym" computes what eager computes; the report of the compile.

    around: makes the mode that both are called under. found: the sites that have to be rewritten,
    by fusion, and no others; "right, or left alone" says too little without. oracle_of: the same
    function as it is run in float64, where it asks for its own dtype.
    """
    ambient = inside(function, around)
    eager = outcome(ambient, copies(inputs))
    widened = inside(oracle_of or function, around)
    exact = oracle.float64(functools.partial(outcome, widened))(copies(inputs))
    torch._dynamo.reset()
    with without_codegen(), warnings.catch_warnings():
        warnings.simplefilter("error", InternalFailure)
        compiled = torch.compile(
            function, backend="tilegym", options=dict(options), dynamic=dynamic
        )
        actual = outcome(inside(compiled, around), copies(inputs))
    assert [t.dtype for t in actual] == [t.dtype for t in eager]
    assert agrees(eager, exact), "the oracle computes something else: anything would be allowed"
    verdict = within_budget(actual, exact, eager)
    assert verdict, f"outputs, inputs after the call, and gradients: {verdict}"
    report = tile_backend.last_report()
    assert report is not None, "the backend was not called"
    assert found is None or dict(report.counts) == dict(found), report.to_text()
    return report
