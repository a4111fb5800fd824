"""Gradients of attention in every form, by its interpreted kernels, against float64."""

from __future__ import annotations

import math
import warnings
from collections.abc import Hashable, Iterator

import pytest
import torch

from tests.attention_cases import FORMS, LEFT, LOWEST, heads, kind, padded, sinks
from tests.attention_grad_cases import (
    TAKEN,
    Arguments,
    backward_arguments,
    by_formulas,
    direction,
    gradients,
)
from tests.kernel_check import check_interpreted
from tests.op_samples import strided
from tile_backend.lowering import oracle
from tile_backend.lowering.custom_op import record
from tile_backend.lowering.kernel_launch import KernelFallbackWarning

ops = torch.ops.tilegym
GRADIENTS = ("attention_grad_q", "attention_grad_kv")


def by_kernels(given: Arguments) -> bool:
    """Whether the backward of these arguments is kernels."""
    given = record("attention").signature.bind((), given)
    gradient = record("attention").op.gradient
    assert gradient is not None
    return gradient.applies(given, TAKEN)


DIFFERENTIABLE = [name for name, form in FORMS.items() if by_kernels(form(torch.float32))]


@pytest.fixture(autouse=True)
def no_fallback() -> Iterator[None]:
    """A kernel that cannot run is a failure here."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", KernelFallbackWarning)
        yield


def with_sinks(found: list[torch.Tensor], exact: list[torch.Tensor]) -> list[torch.Tensor]:
    """The sinks' gradient, a few sums over everything, beside q's: alone it is no measure.

    Both are scaled by a power of two to about one, which rounds nothing.
    """
    if len(found) < 4:
        return found
    scales = [2.0 ** -math.frexp(exact[i].abs().max().item())[1] for i in (0, 3)]
    both = [(found[i].double() * s).flatten() for i, s in zip((0, 3), scales, strict=True)]
    return [*found[:3], torch.cat(both)]


def in_several_orders(given: Arguments, exact: list[torch.Tensor]) -> list[torch.Tensor]:
    """The gradients by the same formulas in PyTorch, each in that order of summation which is the
    furthest off. Of a query that sees one key they are differences of nearly equal numbers, and in
    float32 one order is three times as far off as another.
    """
    orders = range(8 if given["q"].dtype == torch.float32 else 1)
    ways = [by_formulas(given, order) for order in orders]

    def error(way: list[torch.Tensor], i: int) -> float:
        return (way[i].double() - exact[i]).abs().nan_to_num(0.0).max().item()

    return [max(ways, key=lambda way: error(way, i))[i] for i in range(len(exact))]


def check(given: Arguments) -> list[torch.Tensor]:
    """The gradients by kernels, which are within the budget of the same formulas in PyTorch.

    Exact is what autograd makes of attention in float64.
    """
    ours = gradients(ops.attention.interpreted, given)
    written_out = oracle.float64(record("attention").op.reference)
    exact = gradients(written_out, oracle.widened(given))
    theirs = in_several_orders(given, exact)
    verdict = oracle.within_budget(*(with_sinks(x, exact) for x in (ours, exact, theirs)))
    assert verdict, str(verdict)
    return ours


def kinds(form: str, dtype: torch.dtype) -> list[Hashable]:
    """What `make test` has: every kind of form, and all that is not a number in both dtypes."""
    return [kind(form), dtype]


@pytest.mark.sampled(5, each=kinds)
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
@pytest.mark.parametrize("form", DIFFERENTIABLE)
def test_every_form_is_within_budget(form: str, dtype: torch.dtype) -> None:
    check(FORMS[form](dtype))


@pytest.mark.parametrize(
    ("widths", "count", "dtype"),
    (
        ((64, 64), (2, 2), torch.float32),
        ((80, 80), (6, 2), torch.bfloat16),
        ((128, 128), (8, 1), torch.bfloat16),
        ((192, 128), (2, 2), torch.float16),
        ((256, 256), (2, 1), torch.bfloat16),
        ((16, 200), (2, 1), torch.bfloat16),
        ((1, 3), (3, 1), torch.float32),
    ),
    ids=str,
)
def test_head_widths_and_groups(
    widths: tuple[int, int], count: tuple[int, int], dtype: torch.dtype
) -> None:
    check(heads(dtype, (70, 70), count, widths, is_causal=True))


@pytest.mark.parametrize("queries", (1, 200))
def test_few_and_many_queries(queries: int) -> None:
    check(heads(torch.bfloat16, (queries, 300), start=300 - queries, is_causal=True))


def test_any_strides() -> None:
    given = heads(torch.bfloat16, (37, 70), padding=padded((9, 70), (0, 50), keys=70))
    check({n: strided(x) if isinstance(x, torch.Tensor) else x for n, x in given.items()})


def test_the_ops_agree_with_autograd_in_float64() -> None:
    """The references of the gradient ops, which are what the kernels are held against."""
    for form in ("everything None", "soft cap", "window 20 True", "sinks None", "added -inf"):
        given = oracle.widened(FORMS[form](torch.float32))
        theirs = gradients(oracle.float64(record("attention").op.reference), given, ("q", "k", "v"))
        dout = direction((*given["q"].shape[:3], given["v"].shape[3])).double()
        with oracle.Float64():
            taken = backward_arguments(given, dout)
            dq = record("attention_grad_q").op.reference(**taken)
            dk, dv = record("attention_grad_kv").op.reference(**taken)
        for ours, exact in zip((dq, dk, dv), theirs, strict=True):
            torch.testing.assert_close(ours, exact, msg=form)


@pytest.mark.parametrize("op", GRADIENTS)
@pytest.mark.parametrize("offset", (0, 63))
def test_positions_from_an_offset(op: str, offset: int) -> None:
    given = heads(torch.bfloat16, is_causal=True, window=50, offset=torch.tensor([offset]))
    values = record(op).signature.bind((), backward_arguments(given))
    check_interpreted(record(op), values)


# --- empty rows, groups ---------------------------------------------------------------------------


def test_a_query_that_sees_nothing_has_no_gradient_and_gives_none() -> None:
    given = heads(torch.float32, (150, 150), padding=LEFT, is_causal=True)
    q, k, v = check(given)
    assert not q[0, :, :40].any()  # the first key that is shown is number 40
    assert not k[0, :, :40].any()
    assert not v[0, :, :40].any()
    assert q[0, :, 41:].abs().amin(-1).gt(0).all()


def test_where_nobody_sees_anything_all_is_zero() -> None:
    nobody = torch.zeros(2, 150, dtype=torch.bool)
    given = heads(torch.bfloat16, padding=nobody, sinks=sinks(torch.bfloat16))
    for gradient in check(given):
        assert torch.equal(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize("low", (-math.inf, LOWEST))
def test_a_query_to_which_an_added_mask_shows_nothing(low: float) -> None:
    """Written by hand it is nan for all, as in eager, or sees every key alike."""
    given = heads(torch.float32, (9, 70), (2, 2), fill=-math.inf)
    given["mask"] = torch.zeros(9, 70).masked_fill(torch.arange(9)[:, None] == 3, low)

    def by_hand(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **_: object) -> torch.Tensor:
        scores = q @ k.transpose(-1, -2) * given["scale"] + given["mask"]
        return torch.softmax(scores, -1) @ v

    assert by_kernels(given)
    ours = gradients(ops.attention.interpreted, given)
    eager = gradients(by_hand, given)
    exact = gradients(oracle.float64(by_hand), oracle.widened(given))
    verdict = oracle.within_budget(ours, exact, eager)
    assert verdict, str(verdict)
    assert ours[1].isnan().all() == ours[2].isnan().all() == (low == -math.inf)


def test_queries_of_a_group_add_up() -> None:
    """The gradient of a shared key is that of its copies, summed."""
    given = heads(torch.float32, (70, 70), (6, 2), is_causal=True)
    copies = {n: given[n].repeat_interleave(3, 1) for n in ("k", "v")}
    _, *shared = gradients(ops.attention.interpreted, given, ("q", "k", "v"))
    _, *apart = gradients(ops.attention.interpreted, {**given, **copies}, ("q", "k", "v"))
    for ours, theirs in zip(shared, apart, strict=True):
        torch.testing.assert_close(ours, theirs.unflatten(1, (2, 3)).sum(2))
