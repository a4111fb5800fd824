"""Every kernel, run by the interpreter, against float64 and within the budget of its reference.

Every dtype in every class of shapes and values; every rounding mode and optional operand; every
head width; every sample of the compile matrix. And whatever runs together: the same bits.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from tests.kernel_cases import CLASSES, DTYPES, HEAD_WIDTHS, OPS, arguments_of, heads
from tests.kernel_check import check_interpreted as check
from tests.kernel_check import outputs_of
from tests.op_samples import CASES, Case, arguments
from tile_backend.lowering import interpreted, launch_recipe
from tile_backend.lowering.custom_op import record
from tile_backend.lowering.interpreter.launch import interpret
from tile_backend.lowering.kernel_launch import KernelFallbackWarning


@pytest.fixture(autouse=True)
def no_fallback() -> Iterator[None]:
    """A kernel that cannot run is a failure here."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", KernelFallbackWarning)
        yield


def calls_of(op: str, dtype: torch.dtype) -> list[Any]:
    """In make test gradients in two dtypes: what float16 rounds, bfloat16 does too."""
    full = "_grad" in op and dtype is torch.float16
    return [
        pytest.param(op, name, dtype, marks=(pytest.mark.full,) if full else ()) for name in CLASSES
    ]


def pairs(op: str, name: str, dtype: torch.dtype) -> list[Any]:
    """What `make test` has: every op in every dtype, and every class in every dtype."""
    return [(op, dtype), (name, dtype)]


@pytest.mark.sampled(5, each=pairs)
@pytest.mark.parametrize(
    ("op", "name", "dtype"),
    [call for op in OPS for dtype in DTYPES for call in calls_of(op, dtype)],
    ids=str,
)
def test_kernels_are_within_budget(op: str, name: str, dtype: torch.dtype) -> None:
    check(record(op), arguments_of(op, name, dtype))


@pytest.mark.sampled(8)
@pytest.mark.parametrize("contiguous", (True, False), ids=["contiguous", "strided"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_mode_is_within_budget(case: Case, dtype: torch.dtype, contiguous: bool) -> None:
    check(case.record, arguments(case, dtype, contiguous=contiguous))


@pytest.mark.sampled(3)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", HEAD_WIDTHS)
@pytest.mark.parametrize("op", ("attention", "rotary_qk"))
def test_head_widths(op: str, width: int, dtype: torch.dtype) -> None:
    given = {"is_causal": True} if op == "attention" else {}
    values = record(op).signature.bind((), heads(op, (4, 70, width), (2, 70), dtype, **given))
    if op == "attention" and dtype is torch.float32 and width > 128:
        with pytest.raises(KernelFallbackWarning, match="a torch.float32 head is 1 to 128 wide"):
            check(record(op), values)
        return
    check(record(op), values)


@pytest.mark.sampled(3, each=lambda op: [op.partition("_")[0]])
@pytest.mark.parametrize("op", OPS)
def test_results_do_not_depend_on_what_runs_together(op: str) -> None:
    """One block at a time, some, all, and the last ones first: the same bits."""
    declared, values = record(op), arguments_of(op, "ragged", torch.bfloat16)
    results = []
    for order in (
        {},
        {"blocks_at_once": 1},
        {"blocks_at_once": 3},
        {"blocks_at_once": 100_000},
        {"blocks_at_once": 2, "reverse": True},
    ):
        outputs = outputs_of(declared, values)
        given = (*values.values(), *outputs)
        described = launch_recipe.describe(given)
        recipe = launch_recipe.recipe(op, declared.signature.names, described, "sm_90")
        assert recipe is not None
        interpret(recipe.grid, recipe.kernel, recipe.arguments(given), **order)
        results.append(outputs)
    for others in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], others, strict=True))


@pytest.mark.parametrize("op", ("add_rms_norm", "rotary_qk"))
@pytest.mark.parametrize("dead", (0, 1))
def test_a_result_that_nobody_reads_is_not_computed(op: str, dead: int) -> None:
    declared, values = record(op), arguments_of(op, "ragged", torch.float16)
    whole = outputs_of(declared, values)
    interpreted.run(declared, values, whole)
    partial: list[torch.Tensor | None] = list(outputs_of(declared, values))
    partial[dead] = None
    interpreted.run(declared, values, partial)
    kept = partial[1 - dead]
    assert kept is not None
    assert torch.equal(kept, whole[1 - dead])
