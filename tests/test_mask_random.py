"""Random masks: what is said of one is what it computes, at every index.

They read tensors, write to them and to views of them in between, and some are built by vmap.
"""

from __future__ import annotations

import functools
import operator
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._dynamo._trace_wrapped_higher_order_op import TransformGetItemToIndex

from tests.mask_programs import check

Build = Any
"""(batch, query, key, x, length) -> integers or booleans; x [2, 4], length has no dimensions."""
ROWS = 3


def written(inner: Build, write: Build, late: bool) -> Build:
    """A write after the inner value is made, and perhaps before anybody uses it."""

    def both(*given: Any) -> torch.Tensor:
        value = inner(*given)
        made = value if late else value + 0
        write(*given)
        return made

    return both


WRITES = (
    lambda b, q, k, x, n: n.add_(1),
    lambda b, q, k, x, n: n[None].sub_(2),
    lambda b, q, k, x, n: n.to(torch.int64).add_(1),
    lambda b, q, k, x, n: x.add_(1),
    lambda b, q, k, x, n: x[:, 1:3].sub_(1),
    lambda b, q, k, x, n: x.view(8).fill_(2),
)
READS = (
    lambda b, q, k, x, n: q,
    lambda b, q, k, x, n: k,
    lambda b, q, k, x, n: b,
    lambda b, q, k, x, n: q + n,
    lambda b, q, k, x, n: n,
    lambda b, q, k, x, n: n.to(torch.int64),
    lambda b, q, k, x, n: n.view(1).squeeze(),
    lambda b, q, k, x, n: x[b, k],
    lambda b, q, k, x, n: x[b, q],
)
INTEGERS: st.SearchStrategy[Build] = st.recursive(
    st.one_of(
        st.sampled_from(READS),
        st.integers(-3, 6).map(lambda n: lambda b, q, k, x, _: torch.full_like(q, n)),
    ),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map(lambda p: lambda *a: p[0](*a) + p[1](*a)),
        st.tuples(inner, inner).map(lambda p: lambda *a: p[0](*a) - p[1](*a)),
        st.tuples(inner, st.integers(1, 4)).map(lambda p: lambda *a: p[0](*a) // p[1]),
        st.tuples(inner, st.integers(1, 4)).map(lambda p: lambda *a: p[0](*a) % p[1]),
        st.tuples(inner, st.integers(-2, 2)).map(lambda p: lambda *a: p[0](*a) * p[1]),
        inner.map(lambda p: lambda *a: p(*a).abs()),
        st.tuples(inner, st.sampled_from(WRITES), st.booleans()).map(lambda p: written(*p)),
    ),
    max_leaves=4,
)
COMPARISONS = (torch.le, torch.lt, torch.ge, torch.gt, torch.eq, torch.ne)
ANY: st.SearchStrategy[Build] = st.tuples(st.sampled_from(COMPARISONS), INTEGERS, INTEGERS).map(
    lambda p: lambda *a: p[0](p[1](*a), p[2](*a))
)


def usual(size: int, offset: int, by_length: bool) -> st.SearchStrategy[Build]:
    """What masks are made of, so that many of them have names."""

    def position(q: Any, n: Any) -> Any:
        return q + offset + n if by_length else q + offset

    return st.sampled_from(
        (
            lambda b, q, k, x, n: k <= position(q, n),
            lambda b, q, k, x, n: k > position(q, n) - size,
            lambda b, q, k, x, n: (position(q, n) - k).abs() < size,
            lambda b, q, k, x, n: position(q, n) // size == k // size,
            lambda b, q, k, x, n: (k < size) | (k <= position(q, n)),
            lambda b, q, k, x, n: x[b, q] == x[b, k],
            lambda b, q, k, x, n: x[b, k] != 0,
            lambda b, q, k, x, n: x.bool()[b, k],
            lambda b, q, k, x, n: k < n,
        )
    )


USUAL = st.builds(usual, st.integers(1, 4), st.integers(0, 2), st.booleans()).flatmap(lambda s: s)
CONDITIONS: st.SearchStrategy[Build] = st.recursive(
    ANY,
    lambda inner: st.one_of(
        st.tuples(inner, inner).map(lambda p: lambda *a: p[0](*a) & p[1](*a)),
        st.tuples(inner, inner).map(lambda p: lambda *a: p[0](*a) | p[1](*a)),
        st.tuples(inner, inner).map(lambda p: lambda *a: p[0](*a) ^ p[1](*a)),
        inner.map(lambda p: lambda *a: ~p(*a)),
        st.tuples(inner, st.booleans()).map(lambda p: lambda *a: p[0](*a) | p[1]),
        st.tuples(inner, st.booleans()).map(lambda p: lambda *a: p[0](*a) & p[1]),
        st.tuples(inner, st.booleans(), st.booleans()).map(
            lambda p: lambda *a: torch.where(p[0](*a), p[1], p[2])
        ),
        st.tuples(inner, inner, inner).map(
            lambda p: lambda *a: torch.where(p[0](*a), p[1](*a), p[2](*a))
        ),
    ),
    max_leaves=5,
)
PRODUCTS = st.lists(st.one_of(USUAL, USUAL, ANY), min_size=1, max_size=4).map(
    lambda parts: lambda *a: functools.reduce(operator.and_, (part(*a) for part in parts))
)
X = torch.tensor([[2, 0, 1, 3], [3, 3, 0, 2]])


def held_against_itself(build: Build, mapped: bool) -> None:
    def broadcast(x: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
        batch = torch.arange(2)[:, None, None, None]
        query = torch.arange(ROWS)[None, None, :, None]
        return build(batch, query, torch.arange(4)[None, None, None], x, length)

    def by_vmap(x: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
        def function(b: Any, q: Any, k: Any) -> torch.Tensor:
            return build(b, q, k, x, length)

        for dims in ((None, None, 0), (None, 0, None), (0, None, None)):
            function = torch.vmap(function, in_dims=dims)
        with TransformGetItemToIndex():
            return function(torch.arange(2), torch.arange(ROWS), torch.arange(4))[:, None]

    def program(x: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
        return (by_vmap if mapped else broadcast)(x, length).expand(2, 1, ROWS, 4)

    check(program, x=X, length=torch.tensor(1))


@settings(max_examples=40, deadline=None)
@given(CONDITIONS)
def test_no_meaning_says_more_or_less_than_its_program(build: Build) -> None:
    held_against_itself(build, mapped=False)


@settings(max_examples=40, deadline=None)
@given(PRODUCTS, st.booleans())
def test_no_factor_says_more_or_less_than_its_part(build: Build, mapped: bool) -> None:
    held_against_itself(build, mapped)
