"""torch.ops.tilegym: registration, the rules for schemas, fakes, and PyTorch's own op checks."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from tests.op_samples import Case, arguments, one_of_each
from tile_backend.lowering import custom_op
from tile_backend.lowering.fusion import Fusion, Op
from tile_backend.lowering.signature import Signature
from tile_backend.patterns import all_fusions


def fusion_of(*ops: Op) -> Fusion:
    """A user's own fusion: only its ops matter here."""
    return Fusion(name="own", summary="", ops=ops, holes={}, spellings=())


def doubled(x: torch.Tensor, times: float = 2.0) -> torch.Tensor:
    return x * times


def like_x(x: torch.Tensor, times: float) -> torch.Tensor:
    return torch.empty_like(x)


DOUBLED = Op("test_doubled", "(Tensor x, float times=2.0) -> Tensor", doubled, like_x)


def test_defining_again_changes_nothing() -> None:
    before = custom_op.records()
    custom_op.define(all_fusions())
    assert custom_op.records() == before


def test_a_user_can_add_a_fusion_later() -> None:
    custom_op.define([fusion_of(DOUBLED)])
    custom_op.define([fusion_of(DOUBLED)])
    x = torch.ones(3, requires_grad=True)
    y = torch.ops.tilegym.test_doubled(x)
    y.sum().backward()
    assert y.tolist() == [2.0] * 3
    assert x.grad is not None
    assert x.grad.tolist() == [2.0] * 3


def test_a_name_belongs_to_one_op() -> None:
    custom_op.define([fusion_of(DOUBLED)])
    other = dataclasses.replace(DOUBLED, schema="(Tensor x) -> Tensor")
    with pytest.raises(
        ValueError, match=r"'own' declares torch.ops.tilegym.test_doubled, which is"
    ):
        custom_op.define([fusion_of(other)])


@pytest.mark.parametrize(
    ("name", "schema", "rule"),
    (
        ("bad_order", "(float a, Tensor x) -> Tensor", "tensors come first"),
        ("bad_tensorless", "(float a) -> Tensor", "at least one tensor"),
        ("bad_keyword", "(Tensor x, *, float a) -> Tensor", "no keyword-only arguments"),
        ("bad_mutation", "(Tensor(a!) x) -> Tensor", "nothing is mutated"),
        ("bad_list", "(Tensor[] x) -> Tensor", "no lists of tensors"),
        ("bad_result", "(Tensor x) -> int", "every result is a Tensor"),
    ),
)
def test_schemas_the_lowering_cannot_serve_are_refused(name: str, schema: str, rule: str) -> None:
    library = torch.library.Library("tilegym_test", "FRAGMENT")
    library.define(f"{name}{schema}")
    with pytest.raises(ValueError, match=rule):
        Signature.of(getattr(torch.ops.tilegym_test, name).default)


def test_signature_puts_back_what_the_dispatcher_drops() -> None:
    signature = custom_op.record("rms_norm").signature
    assert signature.bind(("x", None, 1e-6), {"rounding": "scale"}) == {
        "x": "x",
        "weight": None,
        "eps": 1e-6,
        "offset": 0.0,
        "rounding": "scale",
    }


@pytest.mark.parametrize(
    ("args", "kwargs", "words"),
    (
        ((1, 2), {}, r"rms_norm\(\) is missing the arguments \['eps'\]"),
        ((1, 2, 3), {"x": 1}, r"unexpected or repeated arguments \['x'\]"),
        ((1, 2, 3, 4, 5, 6), {}, r"takes 5 arguments, not 6"),
    ),
)
def test_signature_errors(args: tuple[Any, ...], kwargs: dict[str, Any], words: str) -> None:
    with pytest.raises(TypeError, match=words):
        custom_op.record("rms_norm").signature.bind(args, kwargs)


def test_every_op_takes_inputs_in_the_layout_they_have() -> None:
    for fusion in all_fusions():
        for op in fusion.ops:
            assert torch.Tag.flexible_layout in custom_op.record(op.name).overload.tags


REGISTRATION = ("test_schema", "test_autograd_registration", "test_faketensor")


@pytest.mark.parametrize("case", one_of_each(), ids=str)
def test_opcheck(case: Case) -> None:
    values = tuple(arguments(case, torch.float32, grad=True).values())
    torch.library.opcheck(case.record.overload, values, test_utils=REGISTRATION)


@pytest.mark.sampled(3, each=lambda case: [case.op.partition("_")[0]])
@pytest.mark.parametrize("case", one_of_each(), ids=str)
def test_opcheck_with_sizes_that_are_symbols(case: Case) -> None:
    """Through AOTAutograd, forward and backward."""
    values = tuple(arguments(case, torch.float32, grad=True).values())
    torch.library.opcheck(case.record.overload, values, test_utils="test_aot_dispatch_dynamic")


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
@pytest.mark.parametrize("case", one_of_each(), ids=str)
def test_results_have_the_promised_layout_and_are_new(case: Case, dtype: torch.dtype) -> None:
    values = arguments(case, dtype, contiguous=False)
    results = case.record.overload(*values.values())
    promised = case.record.op.outputs(**values)
    results, promised = ((t,) if isinstance(t, torch.Tensor) else t for t in (results, promised))
    storages = {t.untyped_storage().data_ptr() for t in values.values() if torch.is_tensor(t)}
    for result, promise in zip(results, promised, strict=True):
        assert (result.dtype, result.stride()) == (promise.dtype, promise.stride())
        assert result.untyped_storage().data_ptr() not in storages
        storages.add(result.untyped_storage().data_ptr())


MISFITS = {
    "add_rms_norm": {"x": (1, 37), "residual": (5, 37), "weight": None, "eps": 1e-6},
    "rms_norm": {"x": (5, 37), "weight": (36,), "eps": 1e-6},
    "silu_mul": {"gate": (1, 37), "up": (5, 37)},
    "rotary_qk": {"q": (2, 3, 5, 6), "k": (2, 3, 4, 6), "cos": (5, 6), "sin": (5, 6)},
    "attention": {
        "q": (2, 3, 5, 6),
        "k": (2, 3, 7, 6),
        "v": (2, 3, 8, 6),
        **dict.fromkeys(("mask", "padding", "segments", "offset", "sinks")),
        "scale": 1.0,
    },
}


@pytest.mark.parametrize("op", MISFITS)
@pytest.mark.parametrize("device", ("cpu", "meta"))
def test_sizes_that_do_not_fit_are_refused(op: str, device: str) -> None:
    values = {
        name: torch.empty(value, device=device) if isinstance(value, tuple) else value
        for name, value in MISFITS[op].items()
    }
    with pytest.raises(RuntimeError, match=r"size|shape|fit"):
        getattr(torch.ops.tilegym, op)(**values)


def test_the_refusal_names_the_op_and_the_sizes() -> None:
    values = (torch.empty(1, 37, device="meta"), torch.empty(5, 37, device="meta"), None, 1e-6)
    with pytest.raises(
        RuntimeError, match=r"tilegym.add_rms_norm: .* x \[1, 37\], residual \[5, 37\]"
    ):
        torch.ops.tilegym.add_rms_norm(*values)


def test_a_reference_that_breaks_the_promise_is_named() -> None:
    wrong = Op(
        "test_wrong", "(Tensor x) -> Tensor", lambda x: x.double(), lambda x: torch.empty_like(x)
    )
    custom_op.define([fusion_of(wrong)])
    with pytest.raises(
        RuntimeError, match=r"test_wrong: result 0 .* is float64\[3\], .* float32\[3\]"
    ):
        torch.ops.tilegym.test_wrong(torch.ones(3))


def test_autocast_outside_does_not_change_an_op() -> None:
    q = torch.randn(1, 2, 3, 4, requires_grad=True)
    mask = torch.ones(3, 3, dtype=torch.bool)
    absent = dict.fromkeys(("padding", "segments", "offset", "sinks"))
    plain = torch.ops.tilegym.attention(q, q, q, mask, **absent, scale=0.5, fill=-1e4)
    (gradient,) = torch.autograd.grad(plain.sum(), q)
    with torch.autocast("cpu", torch.bfloat16):
        cast = torch.ops.tilegym.attention(q, q, q, mask, **absent, scale=0.5, fill=-1e4)
        (cast_gradient,) = torch.autograd.grad(cast.sum(), q)
    assert torch.equal(plain, cast)
    assert torch.equal(gradient, cast_gradient)
