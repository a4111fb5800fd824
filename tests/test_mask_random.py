"""Random masks: what is said of one is what it computes, at every index."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.mask_programs import check, indices

Build = Any
INTEGERS: st.SearchStrategy[Build] = st.recursive(
    st.one_of(
        st.sampled_from([lambda b, q, k, x: q, lambda b, q, k, x: k, lambda b, q, k, x: b]),
        st.sampled_from([lambda b, q, k, x: x[b, k], lambda b, q, k, x: x[b, q]]),
        st.integers(-3, 6).map(lambda n: lambda b, q, k, x: torch.full_like(q, n)),
    ),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map(lambda p: lambda *a: p[0](*a) + p[1](*a)),
        st.tuples(inner, inner).map(lambda p: lambda *a: p[0](*a) - p[1](*a)),
        st.tuples(inner, st.integers(1, 4)).map(lambda p: lambda *a: p[0](*a) // p[1]),
        st.tuples(inner, st.integers(1, 4)).map(lambda p: lambda *a: p[0](*a) % p[1]),
        st.tuples(inner, st.integers(-2, 2)).map(lambda p: lambda *a: p[0](*a) * p[1]),
    ),
    max_leaves=4,
)
COMPARISONS = (torch.le, torch.lt, torch.ge, torch.gt, torch.eq, torch.ne)
CONDITIONS: st.SearchStrategy[Build] = st.recursive(
    st.tuples(st.sampled_from(COMPARISONS), INTEGERS, INTEGERS).map(
        lambda p: lambda *a: p[0](p[1](*a), p[2](*a))
    ),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map(lambda p: lambda *a: p[0](*a) & p[1](*a)),
        st.tuples(inner, inner).map(lambda p: lambda *a: p[0](*a) | p[1](*a)),
        st.tuples(inner, inner).map(lambda p: lambda *a: p[0](*a) ^ p[1](*a)),
        inner.map(lambda p: lambda *a: ~p(*a)),
        st.tuples(inner, inner, inner).map(
            lambda p: lambda *a: torch.where(p[0](*a), p[1](*a), p[2](*a))
        ),
    ),
    max_leaves=5,
)


@settings(max_examples=60, deadline=None)
@given(CONDITIONS)
def test_no_meaning_says_more_or_less_than_its_program(build: Build) -> None:
    x = torch.tensor([[2, 0, 1, 3], [3, 3, 0, 2]])

    def program(x: torch.Tensor) -> torch.Tensor:
        batch, q, k = indices(x)
        return build(batch, q, k, x).expand(2, 1, 4, 4)

    check(program, x=x)
