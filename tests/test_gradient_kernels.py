"""Gradients by the kernels of every op but attention, interpreted, against float64 and eager."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
import torch
import torch._dynamo

import tile_backend
from tests.kernel_cases import arguments_of
from tests.kernel_check import right_where_ours_is
from tests.op_samples import CASES, Case, arguments
from tile_backend.inductor import without_codegen
from tile_backend.lowering import interpreted, oracle
from tile_backend.lowering.custom_op import record, records
from tile_backend.lowering.kernel_launch import KernelFallbackWarning

ops = torch.ops.tilegym
OPS = [
    r.op.name
    for r in records()
    if r.op.gradient and not r.op.composed and not r.op.name.startswith(("attention", "test"))
]
"""Those made of other ops have tests of their own."""
TABLES = ("cos", "sin")
BF16 = torch.bfloat16
Arguments = dict[str, Any]


@pytest.fixture(autouse=True)
def no_fallback() -> Iterator[None]:
    """A kernel that cannot run is a failure here."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", KernelFallbackWarning)
        yield


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Arguments]]:
    """Names and arguments of the ops whose kernels run."""
    calls: list[tuple[str, Arguments]] = []
    run = interpreted.run

    def spy(op: Any, values: Arguments, outputs: Any) -> None:
        calls.append((op.op.name, values))
        run(op, values, outputs)

    monkeypatch.setattr(interpreted, "run", spy)
    return calls


def gradients(
    function: Any, values: Mapping[str, Any], slopes: Sequence[torch.Tensor]
) -> list[torch.Tensor | None]:
    """Of every argument that needs one, for these gradients of the results."""
    results = function(**values)
    results = [results] if isinstance(results, torch.Tensor) else list(results)
    towards = [slope.to(result.dtype) for slope, result in zip(slopes, results, strict=True)]
    leaves = [v for v in values.values() if isinstance(v, torch.Tensor) and v.requires_grad]
    return list(torch.autograd.grad(results, leaves, towards, allow_unused=True))


def three_ways(op: str, values: Arguments) -> list[list[torch.Tensor | None]]:
    """By kernels, in float64, and as eager has them. Tables are constants."""
    for name, value in values.items():
        if isinstance(value, torch.Tensor) and name not in TABLES:
            values[name] = value.detach().requires_grad_()
        elif name in TABLES:
            values[name] = value.detach()
    generator = torch.Generator().manual_seed(1)
    promised = record(op).op.outputs(**values)
    promised = [promised] if isinstance(promised, torch.Tensor) else promised
    slopes = [torch.randn(p.shape, generator=generator).to(p.dtype) for p in promised]
    wide = {
        n: v.detach().double().requires_grad_(v.requires_grad) if isinstance(v, torch.Tensor) else v
        for n, v in values.items()
    }
    reference = record(op).op.reference
    return [
        gradients(record(op).interpreted, values, slopes),
        gradients(oracle.float64(reference), wide, slopes),
        gradients(reference, values, slopes),
    ]


def modes() -> list[Any]:
    """Every mode of every op; in make test in bfloat16, every other one of any strides."""
    cases = [case for case in CASES if case.op in OPS]
    found: list[Any] = []
    for (number, case), dtype, contiguous in itertools.product(
        enumerate(cases), (torch.float32, BF16, torch.float16), (True, False)
    ):
        quick = dtype is BF16 and contiguous is bool(number % 2)
        words = (
            f"{case}-{str(dtype).removeprefix('torch.')}-{('strided', 'contiguous')[contiguous]}"
        )
        marks = () if quick else (pytest.mark.full,)
        found.append(pytest.param(case, dtype, contiguous, id=words, marks=marks))
    return found


@pytest.mark.sampled(2, each=lambda case, dtype, contiguous: [(case.op, contiguous)])
@pytest.mark.parametrize(("case", "dtype", "contiguous"), modes())
def test_every_mode_is_within_budget(
    case: Case, dtype: torch.dtype, contiguous: bool, ran: list[tuple[str, Arguments]]
) -> None:
    values = arguments(case, dtype, contiguous=contiguous)
    verdict = oracle.within_budget(*three_ways(case.op, values))
    assert verdict, str(verdict)
    forward, *backward = [name for name, _ in ran]
    assert forward == case.op
    assert backward, "the backward ran no kernel"


@pytest.mark.parametrize("op", [op for op in OPS if not op.startswith("rotary")])
def test_not_finite_where_eager_is_not(op: str) -> None:
    """Rows of NaN, with a NaN, with infinities of both signs, of minus infinity."""
    found = three_ways(op, arguments_of(op, "not_finite", torch.float32))
    for ours, exact, theirs in zip(*found, strict=True):
        assert ours is not None
        assert exact is not None
        assert theirs is not None
        right = right_where_ours_is(ours, exact, theirs)  # torch's gelu of infinity is NaN
        verdict = oracle.within_budget(ours, exact, right)
        assert verdict, str(verdict)
        assert torch.equal(ours.isnan(), right.isnan())
    assert found[0][0] is not None
    assert found[0][0].isnan().any(), "that of the rows themselves"


# --- only what is needed --------------------------------------------------------------------------


NORM = {"x": (6, 40), "residual": (6, 40), "weight": (40,), "bias": (40,)}
NEEDS = (
    ("rms_norm", "x", {"weight_parts": 0, "of_x": True}),
    ("rms_norm", "weight", {"weight_parts": 1, "of_x": False}),
    ("add_rms_norm", "residual", {"weight_parts": 0, "of_x": True}),
    ("rms_norm_add", "weight", {"weight_parts": 1, "of_x": False}),
    ("layer_norm", "bias", {"weight_parts": 0, "bias_parts": 1, "of_x": False}),
    ("silu_mul", "gate", {"of_gate": True, "of_up": False}),
    ("gelu_mul", "up", {"of_gate": False, "of_up": True}),
)


@pytest.mark.parametrize(("op", "needed", "asked"), NEEDS)
def test_nothing_is_computed_that_needs_no_gradient(
    op: str, needed: str, asked: Arguments, ran: list[tuple[str, Arguments]]
) -> None:
    values = arguments_of(op, "ragged", torch.float32)
    values[needed].requires_grad_()
    results = record(op).interpreted(**values)
    (results if isinstance(results, torch.Tensor) else results[0]).sum().backward()
    assert values[needed].grad.shape == values[needed].shape
    _, (name, given) = ran
    assert name == {"add_rms_norm": "rms_norm", "rms_norm_add": "rms_norm"}.get(op, op) + "_grad"
    assert {n: bool(given[n]) for n in asked} == {n: bool(v) for n, v in asked.items()}
    sizes = [out.numel() for out in record(name).op.outputs(**given)]
    assert [n > 0 for n in sizes] == [bool(v) for v in reordered(asked)]


def reordered(asked: Arguments) -> list[Any]:
    """By the results of the op: that of x comes first."""
    return [asked[n] for n in sorted(asked, key=lambda n: n.endswith("_parts"))]


def test_a_residual_alone_needs_no_kernel(ran: list[tuple[str, Arguments]]) -> None:
    values = arguments_of("rms_norm_add", "ragged", torch.float32)
    values["residual"].requires_grad_()
    ops.rms_norm_add.interpreted(**values).sum().backward()
    assert torch.equal(values["residual"].grad, torch.ones_like(values["residual"]))
    assert [name for name, _ in ran] == ["rms_norm_add"]


def test_one_gradient_of_a_sum_serves_both_of_its_terms(ran: list[tuple[str, Arguments]]) -> None:
    values = arguments_of("add_rms_norm", "ragged", torch.float32)
    for name in ("x", "residual"):
        values[name].requires_grad_()
    normed, total = ops.add_rms_norm.interpreted(**values)
    (normed.square().sum() + total.square().sum()).backward()
    assert torch.equal(values["x"].grad, values["residual"].grad)
    _, (name, given) = ran
    assert name == "rms_norm_grad"
    assert given["added"] is not None
    assert torch.equal(given["x"], total), "the sum is kept, not its terms"


def test_a_sum_whose_norm_is_not_used_passes_its_gradient_on(
    ran: list[tuple[str, Arguments]],
) -> None:
    values = arguments_of("add_rms_norm", "ragged", torch.float32)
    values["x"].requires_grad_()
    ops.add_rms_norm.interpreted(**values)[1].sum().backward()
    assert torch.equal(values["x"].grad, torch.ones_like(values["x"]))
    assert [name for name, _ in ran] == ["add_rms_norm"]


@pytest.mark.parametrize("frozen", ("q", "k"))
def test_a_frozen_side_of_a_rotation_is_not_turned(
    frozen: str, ran: list[tuple[str, Arguments]]
) -> None:
    values = arguments_of("rotary_qk", "ragged", torch.float32)
    other = "k" if frozen == "q" else "q"
    values[other].requires_grad_()
    sum(result.sum() for result in ops.rotary_qk.interpreted(**values)).backward()
    assert [name for name, _ in ran] == ["rotary_qk", "rotary_grad"]


def test_tables_that_need_a_gradient_get_eagers(ran: list[tuple[str, Arguments]]) -> None:
    values = arguments_of("rotary", "ragged", torch.float32)
    values["cos"].requires_grad_()
    ours, theirs = (
        torch.autograd.grad(function(**values).sum(), values["cos"])[0]
        for function in (ops.rotary.interpreted, record("rotary").op.reference)
    )
    assert torch.equal(ours, theirs)
    assert [name for name, _ in ran] == ["rotary"]


def test_an_expanded_gradient_is_read_as_it_is(ran: list[tuple[str, Arguments]]) -> None:
    values = arguments_of("rms_norm", "ragged", torch.float32)
    values["x"].requires_grad_()
    slope = torch.randn(1).expand(values["x"].shape)
    ours, theirs = (
        torch.autograd.grad(function(**values), values["x"], slope)[0]
        for function in (ops.rms_norm.interpreted, record("rms_norm").op.reference)
    )
    torch.testing.assert_close(ours, theirs)
    assert ran[1][1]["dout"].stride() == (0, 0, 0)


@pytest.mark.parametrize("eps", (0.0, -0.5))
@pytest.mark.parametrize("op", ("rms_norm", "layer_norm"))
def test_rows_of_a_tile_that_are_not_there_count_for_nothing(op: str, eps: float) -> None:
    """They are read as zeros of infinite scale; the sums for the gains are over all rows."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 6, generator=generator, requires_grad=True)
    gain = torch.randn(6, generator=generator, requires_grad=True)
    norm = getattr(torch.nn.functional, op)

    def function(x: torch.Tensor, gain: torch.Tensor) -> Any:
        return norm(x * 3, (6,), gain, eps=eps)

    def gradients(call: Any) -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad(call(x, gain).square().sum(), (x, gain))

    torch._dynamo.reset()
    options = {"tilegym.kernels": "interpret"}
    with without_codegen():
        found = gradients(torch.compile(function, backend="tilegym", options=options))
    report = tile_backend.last_report()
    assert report is not None
    assert report.counts == {op: 1}
    for one, other in zip(found, gradients(function), strict=True):
        assert other.isfinite().all()
        torch.testing.assert_close(one, other)
