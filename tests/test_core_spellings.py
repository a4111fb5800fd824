"""Every spelling of every fusion is found once, and its op computes what the spelling computes.

All of it is derived from the declarations: a new fusion is tested by being declared.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch

import tile_backend
from tests.core_graph import capture, judged, names_of_ops, tensors
from tests.core_material import OUTER, Case, cases, near_misses, spellings, title
from tile_backend.inductor import without_codegen
from tile_backend.lowering.budget import within_budget
from tile_backend.lowering.fusion import Fusion, Spelling
from tile_backend.lowering.oracle import float64, widened
from tile_backend.lowering.trace import dimensions
from tile_backend.patterns import all_fusions

Pair = tuple[Fusion, Spelling]
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def once(pair: Pair, dtype: torch.dtype) -> list[Any]:
    """What `make test` has: every spelling, and every fusion in every dtype."""
    return [title(pair), (pair[0].name, dtype)]


@pytest.mark.sampled(10, each=once)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("pair", spellings(), ids=title)
def test_a_spelling_becomes_its_op(pair: Pair, dtype: torch.dtype) -> None:
    found = cases(*pair, dtype)
    assert found, "the spelling cannot be run in this dtype"
    for case in found:
        if pair[1].declined is None:
            becomes_its_op(case)
        else:
            is_declined(case)


def becomes_its_op(case: Case) -> None:
    inputs = case.inputs()
    captured = capture(case.function, inputs)
    ours, sites = captured.rewritten()
    assert [(s.fusion, s.status) for s in sites] == [(case.fusion.name, "fused")], str(case)
    op = case.fusion.op(case.spelling.op)
    assert names_of_ops(ours) == [op.name], str(case)
    verdict = judged(ours, captured.module, captured.inputs)
    assert verdict, f"{case}: {verdict}"
    same_as_reference(case, tensors(ours(*captured.inputs)))
    for actual, eager in zip(
        tensors(ours(*captured.inputs)), tensors(captured.module(*captured.inputs)), strict=True
    ):
        assert actual.stride() == eager.stride(), f"{case}: the layout is another one"


def same_as_reference(case: Case, actual: list[torch.Tensor]) -> None:
    """The op is called with the arguments that the declaration says.

    In float32 several spellings are one pattern, which may be another's by an ulp: the budget of
    the declared reference decides.
    """
    op = case.fusion.op(case.spelling.op)
    finish = case.spelling.finish or (lambda result: result)
    given = case.arguments(case.inputs())
    expected = tensors(op.reference(**given))
    exact = tensors(float64(op.reference)(**widened(given)))
    for results in (expected, exact):
        results[0] = finish(results[0])
    for ours, reference in zip(actual, expected, strict=True):
        assert ours.dtype == reference.dtype, str(case)
        assert ours.shape == reference.shape, str(case)
    verdict = within_budget(actual, exact, expected)
    assert verdict, f"{case}: {verdict}"


def is_declined(case: Case) -> None:
    captured = capture(case.function, case.inputs())
    ours, sites = captured.rewritten()
    (site,) = [s for s in sites if s.fusion == case.fusion.name]
    assert (site.status, site.reason) == ("declined", case.spelling.declined), str(case)
    assert case.fusion.name not in names_of_ops(ours), str(case)


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
@pytest.mark.parametrize("pair", near_misses(), ids=title)
def test_a_near_miss_is_refused_with_words(pair: Pair, dtype: torch.dtype) -> None:
    fusion, spelling = pair
    words = (spelling.function.__doc__ or "").partition(" Fix:")[0].strip(" .")
    for case in cases(fusion, spelling, dtype):
        captured = capture(case.function, case.inputs())
        ours, sites = captured.rewritten()
        assert fusion.name not in [s.fusion for s in sites if s.status == "fused"], str(case)
        verdict = judged(ours, captured.module, captured.inputs)
        assert verdict, f"{case}: {verdict}"
        if not captured.has_anchor(fusion):
            continue
        texts = [s.reason.text for s in sites if s.status == "near-miss" and s.reason]
        assert words in texts, f"{case}: {[(s.fusion, s.status, s.reason) for s in sites]}"


@pytest.mark.sampled(3, each=lambda pair: [pair[0].name])
@pytest.mark.parametrize("pair", spellings(), ids=title)
def test_a_spelling_is_found_whatever_the_outer_sizes(pair: Pair) -> None:
    """Batch and sequence lengths are symbols; the same site, with no guard on them."""
    case = cases(*pair, torch.bfloat16)[0]
    inputs = case.inputs()
    for name, tensor in inputs.items():
        hole = pair[0].holes[name]
        assert isinstance(hole, tile_backend.Tensor)
        for place, dimension in enumerate(dimensions(hole)):
            if dimension in OUTER:
                torch._dynamo.mark_dynamic(tensor, place)
    torch._dynamo.reset()
    report = tile_backend.explain(case.function, **inputs)
    status = "fused" if pair[1].declined is None else "declined"
    assert [(s.fusion, s.status) for s in report.sites] == [(pair[0].name, status)], str(case)
    assert report.graphs[0].symbols


def one_per_op() -> list[Pair]:
    found: dict[str, Pair] = {}
    for fusion in all_fusions():
        for spelling in fusion.spellings:
            if spelling.declined is None:
                found.setdefault(fusion.op(spelling.op).name, (fusion, spelling))
    return list(found.values())


def results(function: Callable[..., Any], given: dict[str, Any]) -> list[torch.Tensor | None]:
    """Outputs, and the gradients of a weighted sum of them for every input that can have one."""
    outputs = tensors(function(**given))
    total = sum(
        (o * torch.linspace(-1, 1, o.numel(), dtype=o.dtype).view_as(o)).sum() for o in outputs
    )
    assert isinstance(total, torch.Tensor)
    leaves = [tensor for tensor in given.values() if tensor.requires_grad]
    return [*outputs, *torch.autograd.grad(total, leaves)]


def differentiable(given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors that require a gradient, where they are not whole numbers."""
    return {n: t.requires_grad_(t.is_floating_point() or t.is_complex()) for n, t in given.items()}


def trains(case: Case) -> bool:
    """False where eager's own backward takes no mixed dtypes on a CPU."""
    try:
        results(case.function, differentiable(case.inputs()))
    except RuntimeError as error:
        if "scalar type" not in str(error):
            raise
        return False
    return True


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
@pytest.mark.parametrize("pair", one_per_op(), ids=title)
def test_training_through_torch_compile(pair: Pair, dtype: torch.dtype) -> None:
    """Outputs and all gradients are within the budget that eager in this dtype sets."""
    found = [case for case in cases(*pair, dtype) if trains(case)]
    assert found
    for case in found:
        inputs = differentiable(case.inputs())
        torch._dynamo.reset()
        with without_codegen():
            compiled = torch.compile(
                case.function, backend="tilegym", options={"tilegym.kernels": "always"}
            )
            ours = results(compiled, inputs)
        report = tile_backend.last_report()
        assert report is not None
        assert report.counts == {case.fusion.name: 1}, str(case)
        wide = differentiable(
            {n: t.detach().double() if t.requires_grad else t for n, t in inputs.items()}
        )
        exact = float64(functools.partial(results, case.function))(wide)
        verdict = within_budget(ours, exact, results(case.function, inputs))
        assert verdict, f"{case}: {verdict}"
