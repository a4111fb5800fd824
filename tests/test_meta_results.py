"""Results of torch calls on meta tensors that are worked out once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch

from tile_backend.lowering import trace
from tile_backend.lowering.meta_results import MetaResults
from tile_backend.lowering.registry import Registry
from tile_backend.patterns import all_fusions


class Called:
    """A function with a name of its own that counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, x: torch.Tensor, factor: float) -> torch.Tensor:
        self.calls += 1
        return x * factor


def meta(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def test_a_known_kind_of_call_is_not_made_again() -> None:
    results, function = MetaResults(), Called()
    first, second = (results.of(function, (meta(2, 3), 2.0), {}) for _ in range(2))
    assert function.calls == 1
    assert first is not second
    assert (first.shape, first.stride(), first.dtype) == (
        second.shape,
        second.stride(),
        second.dtype,
    )


@pytest.mark.parametrize(
    "other",
    [
        (meta(3, 2), 2.0),
        (meta(3, 2).t(), 2.0),
        (meta(2, 3, dtype=torch.float32), 2.0),
        (meta(2, 3), 2),
        (meta(2, 3), True),
    ],
)
def test_another_kind_is(other: tuple[Any, ...]) -> None:
    results, function = MetaResults(), Called()
    results.of(function, (meta(2, 3), 2.0), {})
    found = results.of(function, other, {})
    assert function.calls == 2
    wanted = other[0] * other[1]
    assert (found.shape, found.stride(), found.dtype) == (
        wanted.shape,
        wanted.stride(),
        wanted.dtype,
    )


def test_several_results_are_worked_out_each_time() -> None:
    results = MetaResults()
    for _ in range(2):
        parts = results.of(torch.chunk, (meta(2, 4), 2), {"dim": -1})
        assert [part.shape for part in parts] == [(2, 2), (2, 2)]


def test_patterns_are_those_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Plain:
        def of(
            self, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
        ) -> Any:
            return function(*args, **kwargs)

    def signatures() -> list[Any]:
        found = Registry(all_fusions()).patterns
        return [(p.spelling.title, p.low, sorted(p.holes), trace.signature(p)) for p in found]

    shared = signatures()
    monkeypatch.setattr(trace, "RESULTS", Plain())
    assert shared == signatures()
