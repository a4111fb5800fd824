"""NaN, infinity and huge numbers through every kernel, run by the interpreter, and its reference.

Each operand in turn has rows of them. What a kernel of attention does otherwise is tested as what
it is: it does not read the keys that are hidden from a whole tile of queries, and it may have NaN
where eager has an infinity, but never a number where a query sees NaN or infinity.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from tests.attention_grad_cases import backward_arguments
from tests.kernel_cases import OPS, ROWS, heads, rows
from tests.kernel_check import outputs_of, right_where_ours_is
from tile_backend.lowering import interpreted, oracle, reference
from tile_backend.lowering.budget import unlike
from tile_backend.lowering.custom_op import record
from tile_backend.lowering.random_inputs import FINITE, UNUSUAL, make_unusual

DTYPES = (torch.float32, torch.bfloat16)
KEPT = ("lse", "delta", "parts", "factor")
"""Arguments that a forward made: of these any number is not one that there can be."""
Arguments = dict[str, Any]


def arguments(op: str, dtype: torch.dtype) -> Arguments:
    made = rows(op, (3, 2), 40, dtype) if op in ROWS else heads(op, (4, 21, 16), (2, 21), dtype)
    return record(op).signature.bind((), made)


def places(op: str, given: Arguments) -> list[str]:
    """The operands that may hold any number."""
    floating = [n for n, x in given.items() if torch.is_tensor(x) and x.is_floating_point()]
    return [n for n in floating if n not in KEPT or not op.endswith("_grad")]


def problems(op: str, given: Arguments) -> list[str]:
    """Where the kernel's results are not finite otherwise than the reference's."""
    declared, ours = record(op), outputs_of(record(op), given)
    interpreted.run(declared, given, ours)
    theirs = reference.run(declared.op, given)
    exact = reference.as_tuple(oracle.float64(declared.op.reference)(**given))
    right = tuple(map(right_where_ours_is, ours, exact, theirs))
    return unlike(ours, exact, right)


@pytest.mark.sampled(6)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("op", OPS)
def test_a_kernel_has_them_where_its_reference_has(op: str, dtype: torch.dtype) -> None:
    kinds = FINITE if record(op).op.loses else UNUSUAL
    for place in places(op, arguments(op, dtype)):
        given = arguments(op, dtype)
        make_unusual(given[place], torch.Generator().manual_seed(len(place)), kinds)
        assert not any(problems(op, given)), (place, problems(op, given))


# --- attention ------------------------------------------------------------------------------------

LENGTH, AT = 150, 100
"""Keys for more than one tile, and the one that is not finite."""


def attended(
    dtype: torch.dtype, place: str, number: float, at: int = AT, **rules: Any
) -> Arguments:
    given = heads("attention", (2, LENGTH, 32), (2, LENGTH), dtype, **rules)
    given[place][0, 0, at, 3] = number
    return record("attention").signature.bind((), given)


def of_kernel(op: str, given: Arguments) -> list[torch.Tensor]:
    made = outputs_of(record(op), given)
    interpreted.run(record(op), given, made)
    return made


@pytest.mark.parametrize("place", "qkv")
def test_attention_that_hides_nothing_has_them_where_its_reference_has(place: str) -> None:
    for number in (math.nan, math.inf, -math.inf):
        given = attended(torch.bfloat16, place, number)
        assert not any(problems("attention", {**given, "form": "filled scores"})), number


@pytest.mark.sampled(4)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("number", (math.nan, math.inf, -math.inf))
@pytest.mark.parametrize("place", "qkv")
def test_what_a_query_sees_is_never_lost(place: str, number: float, dtype: torch.dtype) -> None:
    given = attended(dtype, place, number, is_causal=True)
    (theirs,) = reference.run(record("attention").op, {**given, "form": "filled scores"})
    (ours,) = of_kernel("attention", given)
    seen = slice(AT, None)
    assert not theirs[0, 0, seen].isfinite().all()
    assert not (ours.isfinite() & ~theirs.isfinite())[:, :, seen].any()
    others = torch.ones(ours.shape[:2], dtype=torch.bool)
    others[0, 0] = False
    assert ours[others].isfinite().all(), "other heads"


@pytest.mark.parametrize("place", "kv")
def test_a_key_that_a_whole_tile_of_queries_does_not_see_is_not_read(place: str) -> None:
    """With a mask tensor eager has NaN in every row. No tile has more than 128 queries."""
    given = attended(torch.bfloat16, place, math.nan, LENGTH - 1, is_causal=True)
    (ours,) = of_kernel("attention", given)
    (eager,) = reference.run(record("attention").op, {**given, "form": "sdpa masked"})
    assert eager[0, 0].isnan().any(-1).all()
    assert ours[0, 0, :128].isfinite().all()


@pytest.mark.sampled(4)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("place", "qkv")
def test_gradients_of_what_a_query_sees_are_never_lost(place: str, dtype: torch.dtype) -> None:
    """Of the query and of the keys that it sees, whichever of them is NaN."""
    given = attended(dtype, place, math.nan, is_causal=True)
    kept = record("attention_grad_kv").signature
    backward = kept.bind((), backward_arguments({**given, "form": "filled scores"}))
    (of_q,), of_kv = (of_kernel(f"attention_grad_{x}", backward) for x in ("q", "kv"))
    theirs = reference.run(record("attention_grad_q").op, backward)
    assert not theirs[0][0, 0, AT].isfinite().all()
    assert not (of_q.isfinite() & ~theirs[0].isfinite())[0, 0, AT:].any()
    theirs = reference.run(record("attention_grad_kv").op, backward)
    for ours, expected in zip(of_kv, theirs, strict=True):
        assert not (ours.isfinite() & ~expected.isfinite())[0, 0, : AT + 1].any()
