"""The backward of attention does no more than it is asked for.

Nothing for inputs that are frozen, nothing read that no query sees, nothing kept with an element
per query and key.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from tests.attention_cases import SQUARE, heads, padded, sinks
from tests.attention_grad_cases import TAKEN, Arguments, backward_arguments, gradients
from tile_backend.lowering import interpreted
from tile_backend.lowering.custom_op import record

ops = torch.ops.tilegym


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
        {"mask": torch.zeros(9, 9), "fill": -math.inf, "is_causal": True},
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
