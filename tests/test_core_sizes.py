"""Every op with each of its dimensions at 0 and at 1: what eager gives, and nothing of ours fails.

A size of 0 divides by nothing, a size of 1 is broadcast: sites may be declined for either, with a
reason that is not a failure of our own.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from tests.core_graph import capture, tensors
from tests.core_material import SIZES, cases, spellings, title
from tile_backend.lowering.fusion import Fusion, Spelling
from tile_backend.lowering.reason import ReasonKind
from tile_backend.lowering.trace import dimensions

Pair = tuple[Fusion, Spelling]


def pairs() -> list[Pair]:
    """For each op the spellings of different holes."""
    found: dict[tuple[object, ...], Pair] = {}
    for fusion, spelling in spellings():
        if spelling.declined is None:
            (case, *_) = cases(fusion, spelling, torch.float32)
            found.setdefault((fusion.op(spelling.op).name, tuple(case.dtypes)), (fusion, spelling))
    return list(found.values())


def dimensions_of(pair: Pair) -> list[str]:
    """The dimensions of the operands of a spelling."""
    (case, *_) = cases(*pair, torch.float32)
    holes = (pair[0].holes[name] for name, dtype in case.dtypes.items() if dtype is not None)
    return sorted({d for hole in holes for d in dimensions(hole) if d in SIZES})  # type: ignore[arg-type]


def trained(function: Callable[..., Any], inputs: Sequence[Any]) -> list[torch.Tensor | None]:
    """Results and gradients."""
    own = [leaf(given) for given in inputs]
    results = tensors(function(*own))
    slopes = [torch.linspace(-1, 1, r.numel(), dtype=r.dtype).view_as(r) for r in results]
    leaves = [given for given in own if given.requires_grad]
    return [*results, *torch.autograd.grad(results, leaves, slopes, allow_unused=True)]


def positional(function: Callable[..., Any], names: Sequence[str]) -> Callable[..., Any]:
    return lambda *given: function(**dict(zip(names, given, strict=True)))


def leaf(given: torch.Tensor) -> torch.Tensor:
    return given.detach().clone().requires_grad_(given.is_floating_point() or given.is_complex())


@pytest.mark.parametrize("size", (0, 1))
@pytest.mark.parametrize("pair", pairs(), ids=title)
def test_no_size_makes_us_fail(pair: Pair, size: int) -> None:
    (case, *_) = cases(*pair, torch.float32)
    tried = collections.Counter[str]()
    for dimension in dimensions_of(pair):
        try:
            inputs = {n: leaf(t) for n, t in case.inputs(sizes={**SIZES, dimension: size}).items()}
            trained(positional(case.function, list(inputs)), list(inputs.values()))
        except (RuntimeError, IndexError):
            continue  # nobody has this program
        captured = capture(case.function, inputs)
        ours, sites = captured.rewritten()
        for site in sites:
            assert site.reason is None or site.reason.kind is not ReasonKind.INTERNAL_FAILURE, (
                dimension,
                site.reason.text,
            )
        tried[next((site.status for site in sites), "nothing")] += 1
        wanted = trained(captured.module, captured.inputs)
        for one, other in zip(trained(ours, captured.inputs), wanted, strict=True):
            torch.testing.assert_close(one, other, equal_nan=True)
    assert tried["fused"] >= 1, tried
