"""Gradients of attention in every form, by its interpreted kernels, against float64.

And that its backward does no more than it is asked for: nothing for inputs that are frozen, nothing
read that no query sees, nothing kept with an element per query and key.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch

from tests.attention_cases import FORMS, LEFT, SQUARE, heads, padded, sinks
from tests.kernel_check import check_interpreted
from tests.op_samples import strided
from tile_backend.lowering import interpreted, oracle
from tile_backend.lowering.custom_op import record
from tile_backend.lowering.kernel_launch import KernelFallbackWarning

Arguments = dict[str, Any]
ops = torch.ops.tilegym
GRADIENTS = ("attention_grad_q", "attention_grad_kv")
TAKEN = ("q", "k", "v", "sinks")


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


def direction(shape: Sequence[int]) -> torch.Tensor:
    """The gradient of a result of attention."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(5))


def gradients(op: Any, given: Arguments, taken: tuple[str, ...] = TAKEN) -> list[torch.Tensor]:
    """Of q, k, v and sinks, by a direction that is the same for every op."""
    given = record("attention").signature.bind((), given)
    leaves = {
        n: given[n].detach().clone().requires_grad_() for n in taken if given[n] is not None
    }
    result = op(**{**given, **leaves})
    towards = direction(result.shape).to(result.dtype)
    return list(torch.autograd.grad(result, list(leaves.values()), towards))


def check(given: Arguments) -> list[torch.Tensor]:
    """The gradients by kernels, which are within the budget of the same formulas in PyTorch.

    Exact is what autograd makes of attention in float64.
    """
    ours = gradients(ops.attention.interpreted, given)
    written_out = oracle.float64(record("attention").op.reference)
    exact = gradients(written_out, oracle.widened(given))
    verdict = oracle.within_budget(ours, exact, gradients(ops.attention.default, given))
    assert verdict, str(verdict)
    return ours


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
@pytest.mark.parametrize("form", DIFFERENTIABLE)
def test_every_form_is_within_budget(form: str, dtype: torch.dtype) -> None:
    check(FORMS[form](dtype))


@pytest.mark.parametrize("op", GRADIENTS)
@pytest.mark.parametrize("form", ("added -inf", "added lowest"))
def test_masks_that_are_added(form: str, op: str) -> None:
    """What the ops take beside what attention's backward gives them."""
    given = FORMS[form](torch.bfloat16)
    check_interpreted(record(op), record(op).signature.bind((), backward_arguments(given)))


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


def backward_arguments(given: Arguments, dout: torch.Tensor | None = None) -> Arguments:
    """Arguments of the gradient ops for a call of `attention`, with its own log-sum-exp."""
    given = record("attention_with_lse").signature.bind((), given)
    out, lse = record("attention_with_lse").op.reference(**given)
    dout = direction(out.shape).to(out.dtype) if dout is None else dout
    given.update(dout=dout, lse=lse, delta=(dout.float() * out.float()).sum(-1))
    return {n: x for n, x in given.items() if n not in ("sinks", "fill")}


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
            torch.testing.assert_close(ours, exact, msg=lambda text, form=form: f"{form}: {text}")


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


def test_queries_of_a_group_add_up() -> None:
    """The gradient of a shared key is that of its copies, summed."""
    given = heads(torch.float32, (70, 70), (6, 2), is_causal=True)
    copies = {n: given[n].repeat_interleave(3, 1) for n in ("k", "v")}
    _, *shared = gradients(ops.attention.interpreted, given, ("q", "k", "v"))
    _, *apart = gradients(ops.attention.interpreted, {**given, **copies}, ("q", "k", "v"))
    for ours, theirs in zip(shared, apart, strict=True):
        torch.testing.assert_close(ours, theirs.unflatten(1, (2, 3)).sum(2))


# --- no more than is asked for ---------------------------------------------------------------------


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ops whose kernels the interpreter runs."""
    names: list[str] = []
    run = interpreted.run

    def spy(op: Any, *rest: Any) -> None:
        names.append(op.op.name)
        run(op, *rest)

    monkeypatch.setattr(interpreted, "run", spy)
    return names


@pytest.mark.parametrize(
    ("taken", "expected"),
    (
        (("q",), ["attention_grad_q"]),
        (("k",), ["attention_grad_kv"]),
        (("v",), ["attention_grad_kv"]),
        (("sinks",), []),
        (("q", "v"), ["attention_grad_q", "attention_grad_kv"]),
    ),
)
def test_frozen_inputs_do_no_work(
    taken: tuple[str, ...], expected: list[str], ran: list[str]
) -> None:
    given = heads(torch.float32, (9, 9), is_causal=True, sinks=sinks(torch.float32))
    ours = gradients(ops.attention.interpreted, given, taken)
    assert ran == ["attention_with_lse", *expected]
    whole = gradients(ops.attention.interpreted, given)
    assert all(torch.equal(a, whole[TAKEN.index(n)]) for n, a in zip(taken, ours, strict=True))


def test_without_gradients_the_plain_op_runs(ran: list[str]) -> None:
    given = record("attention").signature.bind((), heads(torch.float32, (9, 9)))
    ops.attention.interpreted(**given)
    with torch.no_grad():
        ops.attention.interpreted(**{**given, "q": given["q"].requires_grad_()})
    assert ran == ["attention", "attention"]


@pytest.mark.parametrize(
    "changed",
    (
        {"mask": torch.zeros(9, 9)},
        {"segments": None, "mask": torch.zeros(9, 9, requires_grad=True)},
        {"fill": -1e4, "is_causal": True},
        {"offset": torch.tensor([0]), "is_causal": True},
    ),
    ids=lambda changed: next(iter(changed)),
)
def test_what_the_kernels_do_not_cover_is_recomputed(changed: Arguments, ran: list[str]) -> None:
    given = {**heads(torch.float32, (9, 9)), **changed}
    ours = gradients(ops.attention.interpreted, given, ("q", "k", "v"))
    assert ran == ["attention"]
    theirs = gradients(record("attention").op.reference, given, ("q", "k", "v"))
    assert all(map(torch.equal, ours, theirs))


@pytest.mark.parametrize("dead", (0, 1))
def test_a_result_that_nobody_reads_is_not_computed(dead: int) -> None:
    op = record("attention_grad_kv")
    values = op.signature.bind((), backward_arguments(heads(torch.float16, is_causal=True)))
    whole, partial = list(op.op.outputs(**values)), list(op.op.outputs(**values))
    interpreted.run(op, values, whole)
    partial[dead] = None
    interpreted.run(op, values, partial)
    assert torch.equal(partial[1 - dead], whole[1 - dead])


SKIPPED = {
    "window": {**SQUARE, "sizes": (300, 300), "window": 20},
    "chunk": {**SQUARE, "sizes": (300, 300), "chunk": 20},
    "padding": {"sizes": (300, 300), "padding": padded((256, 300), (270, 290), keys=300)},
    "segments": {"sizes": (300, 300), "segments": torch.arange(300)[None] // 25},
}
"""Forms in which queries 256 to 299 see none of the keys 0 to 127."""


@pytest.mark.parametrize("form", SKIPPED)
def test_keys_that_no_query_sees_are_not_read(form: str) -> None:
    given = heads(torch.bfloat16, **SKIPPED[form])
    values = record("attention_grad_q").signature.bind((), backward_arguments(given))
    (whole,), (poisoned,) = ([torch.empty_like(values["q"])] for _ in range(2))
    interpreted.run(record("attention_grad_q"), values, [whole])
    for name in ("k", "v"):
        values[name] = values[name].clone()
        values[name][:, :, :128] = torch.nan
    interpreted.run(record("attention_grad_q"), values, [poisoned])
    assert torch.equal(whole[:, :, 256:], poisoned[:, :, 256:])


@pytest.mark.parametrize("form", SKIPPED)
def test_queries_that_see_no_key_are_not_read(form: str) -> None:
    given = heads(torch.bfloat16, **SKIPPED[form])
    op = record("attention_grad_kv")
    values = op.signature.bind((), backward_arguments(given))
    whole, poisoned = ([torch.empty_like(values[n]) for n in ("k", "v")] for _ in range(2))
    interpreted.run(op, values, whole)
    for name in ("q", "dout"):
        values[name] = values[name].clone()
        values[name][:, :, 256:] = torch.nan
    interpreted.run(op, values, poisoned)
    for ours, theirs in zip(poisoned, whole, strict=True):
        assert torch.equal(ours[:, :, :128], theirs[:, :, :128])


def test_what_is_kept_is_inputs_result_and_log_sum_exp() -> None:
    given = heads(torch.float32, is_causal=True)
    leaves = {n: given[n].requires_grad_() for n in ("q", "k", "v")}
    saved: list[torch.Tensor] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = ops.attention.interpreted(**{**given, **leaves})
    batch, count, length, _ = given["q"].shape
    *inputs, out, lse = saved
    assert [t.data_ptr() for t in inputs] == [t.data_ptr() for t in leaves.values()]
    assert out.data_ptr() == result.data_ptr()
    assert (lse.shape, lse.dtype) == ((batch, count, length), torch.float32)


def test_double_backward_is_refused() -> None:
    given = heads(torch.float32, (5, 5))
    q = given["q"].requires_grad_()
    result = ops.attention.interpreted(**{**given, "q": q})
    (gradient,) = torch.autograd.grad(result.square().sum(), q, create_graph=True)
    with pytest.raises(NotImplementedError, match="double backward"):
        gradient.sum().backward()
