"""A failure of ours while a program runs, forward or backward, costs a kernel and not the program.

The op's reference takes its place, with one warning; a gradient of ours gives way to the one that
is derived from the reference.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch.autograd import profiler

from tests.op_samples import Case, arguments, one_of_each
from tests.planted_failures import Planted, raises
from tests.stub_driver import Driver
from tests.stub_launches import launched, norm
from tile_backend import divergence, errors
from tile_backend.lowering import (
    checked,
    composition,
    cubin_store,
    cuda_state,
    kernel_launch,
    launch,
    launch_abi1,
    launch_recipe,
    profiled,
    reference,
    run_time_check,
    tuning_store,
)
from tile_backend.lowering.check_request import Check
from tile_backend.lowering.interpreter import launch as interpreter
from tile_backend.lowering.interpreter.faults import FaultKind, KernelFault
from tile_backend.lowering.kernel_launch import KernelFallbackWarning
from tile_backend.lowering.kernels import rms_norm
from tile_backend.patterns import _attention_on_cpu

ops = torch.ops.tilegym
BF16 = torch.bfloat16


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing was warned about before."""
    recipe = launch_recipe.recipe  # a test may put another in its place
    kernel_launch.warn_once.cache_clear()
    recipe.cache_clear()
    monkeypatch.setattr(divergence, "_unchecked", set())
    yield
    recipe.cache_clear()


def one_warning(run: Callable[[], Any], kind: type[Warning], *words: str) -> Any:
    """What it gives, with one warning of ours that says why, and none the second time."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = run()
        run()
    ours = [w.message for w in caught if "tile_backend" in type(w.message).__module__]
    assert len(ours) == 1, ours
    assert isinstance(ours[0], kind)
    assert all(word in str(ours[0]) for word in ("Planted: in the way", *words)), ours[0]
    return found


# --- launches -------------------------------------------------------------------------------------

LAUNCHES = {
    "a plan": (rms_norm, "plan"),
    "a recipe": (launch_recipe, "recipe"),
    "its arguments": (kernel_launch, "arguments"),
    "the architecture": (cuda_state, "architecture"),
    "the code of a kernel": (rms_norm.kernel(rms_norm.rms_norm).__class__, "build"),
}


@pytest.mark.stub
@pytest.mark.parametrize("place", LAUNCHES)
def test_a_launch_that_fails_runs_the_reference(
    place: str, driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is raised on the way to it."""
    x = torch.randn(4, 64, dtype=BF16)
    expected = ops.rms_norm(x, torch.ones(64, dtype=BF16), 1e-6)
    monkeypatch.setattr(*LAUNCHES[place], raises)
    run = lambda: launched(driver, lambda: norm(x))  # noqa: E731
    found, launches = one_warning(run, KernelFallbackWarning, "rms_norm runs its PyTorch reference")
    assert launches == []
    assert torch.equal(found, expected)


def test_code_for_a_cpu_that_fails_runs_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    q = torch.randn(1, 2, 8, 16)
    run = lambda: ops.attention(q, q, q, *(None,) * 5, 0.25, True)  # noqa: E731
    expected = run()
    monkeypatch.setattr(_attention_on_cpu, "cut", raises)
    found = one_warning(run, KernelFallbackWarning, "attention runs its reference, not its code")
    assert torch.equal(found, expected)


STORES = {
    "reading a kernel": (cubin_store.Store, "get"),
    "writing a kernel": (cubin_store.Store, "put"),
    "what is measured": (tuning_store, "has"),
    "a measurement": (tuning_store, "files"),
}


@pytest.mark.stub
@pytest.mark.parametrize("place", STORES)
def test_a_store_that_fails_costs_no_launch(
    place: str, driver: Driver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(*STORES[place], raises)
    _, launches = launched(driver, lambda: norm(torch.randn(4, 64, dtype=BF16)))
    assert len(launches) == 1
    assert "Planted: in the way" in caplog.text


@pytest.mark.stub
def test_a_name_for_the_profiler_costs_no_launch(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(profiled, "name_at", raises)
    with profiler.profile():
        _, launches = launched(driver, lambda: norm(torch.randn(4, 64, dtype=BF16)))
    assert len(launches) == 1


@pytest.mark.stub
def test_memory_that_runs_out_is_no_failure_of_ours(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reference would take more of it."""

    def runs_out(*args: Any, **kwargs: Any) -> Any:
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(launch_recipe, "recipe", runs_out)
    with pytest.raises(torch.OutOfMemoryError):
        norm(torch.randn(4, 64, dtype=BF16))


@pytest.mark.parametrize("name", ("rms_norm", "add_rms_norm"))
def test_a_launcher_that_cannot_be_made(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One result, and several of which one is not read."""
    monkeypatch.delitem(vars(launch_abi1), name, raising=False)
    monkeypatch.setattr(launch, "launcher", raises)
    x, y = torch.randn(4, 8), torch.randn(4, 8)
    out = torch.empty(4, 8)
    try:
        if name == "rms_norm":
            call = lambda: launch_abi1.rms_norm(x, None, 1e-6, 0.0, "once", out=out)  # noqa: E731
            one_warning(call, KernelFallbackWarning, name)
            assert torch.equal(out, ops.rms_norm(x, None, 1e-6))
        else:
            call = lambda: launch_abi1.add_rms_norm(x, y, None, 1e-6, 0.0, "once", out, None)  # noqa: E731
            one_warning(call, KernelFallbackWarning, name)
            assert torch.equal(out, ops.add_rms_norm(x, y, None, 1e-6)[0])
    finally:
        vars(launch_abi1).pop(name, None)


CASES = list(one_of_each())
COMPOSED = [case for case in CASES if case.record.op.composed]
DECLARED = [case for case in CASES if case.record.op.gradient]


def values_of(case: Case, grad: bool = False) -> list[Any]:
    return list(arguments(case, torch.float32, grad=grad).values())


@pytest.mark.parametrize("case", COMPOSED, ids=lambda case: case.op)
@pytest.mark.parametrize("launches", (False, True), ids=("cpu", "gpu"))
def test_an_op_made_of_others_is_its_reference_where_these_fail(
    case: Case, launches: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    values, record = values_of(case), case.record
    given = dict(zip(record.signature.names, values, strict=True))
    expected = reference.run(record.op, given)
    monkeypatch.setattr(composition, "compose", raises)

    def run() -> Any:
        if not launches:
            return record.overload(*values)
        outputs = reference.as_tuple(record.op.outputs(**given))
        launch.launch(record, given, outputs)
        return outputs

    found = one_warning(run, KernelFallbackWarning, case.op, "runs its PyTorch reference")
    assert all(map(torch.equal, reference.as_tuple(found), expected))


# --- checks and the interpreter -------------------------------------------------------------------

NORM = next(case for case in CASES if case.op == "rms_norm")


@pytest.mark.parametrize("place", ("references", "called", "within_budget"))
@pytest.mark.parametrize("trains", (False, True))
def test_a_check_that_fails_passes_the_results_on(
    place: str, trains: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    values, check = values_of(NORM, grad=trains), Check().to_text()
    expected = NORM.record.overload(*values)
    monkeypatch.setattr(run_time_check, place, raises)
    run = lambda: ops.checked_rms_norm(*values, check=check)  # noqa: E731
    found = one_warning(run, errors.ResultUnchecked, "rms_norm (forward) could not be checked")
    assert torch.equal(found, expected)


def test_under_a_strict_mode_it_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_time_check, "references", raises)
    with pytest.raises(Planted):
        ops.checked_rms_norm(*values_of(NORM), check=Check(raises=True).to_text())


def test_a_wrong_result_that_cannot_be_reported_is_replaced_all_the_same(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    values = values_of(NORM)
    expected = NORM.record.overload(*values)
    request = checked.asked(NORM.record.op, named(values), [expected * 2], Check())
    monkeypatch.setattr(divergence, "report", raises)
    (found,) = ops.check(*request)
    assert torch.equal(found, expected)
    assert "reporting a result outside its budget" in caplog.text


def named(values: list[Any]) -> dict[str, Any]:
    return dict(zip(NORM.record.signature.names, values, strict=True))


@pytest.mark.parametrize("place", ((launch_recipe, "recipe"), (interpreter, "interpret")))
def test_an_interpreted_op_that_fails_runs_the_reference(
    place: tuple[Any, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """But where a kernel breaks a rule, which is what it is interpreted for."""
    values = values_of(NORM)
    monkeypatch.setattr(*place, raises)
    run = lambda: NORM.record.interpreted(*values)  # noqa: E731
    found = one_warning(run, KernelFallbackWarning, "not its interpreted kernel")
    assert torch.equal(found, NORM.record.overload(*values))
    monkeypatch.setattr(*place, breaks_a_rule)
    with pytest.raises(KernelFault):
        NORM.record.interpreted(*values)


def breaks_a_rule(*args: Any, **kwargs: Any) -> Any:
    raise KernelFault(FaultKind.BAD_ADDRESS, "rms_norm", None, "a rule")
