"""tilegym.verify="always": a result that goes wrong at run time is seen, saved, and replaced."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.models import named
from tests.models.inputs import INPUTS
from tests.norm_program import norm, x_and_more
from tile_backend import divergence
from tile_backend.errors import ResultDiverged, ResultRefused
from tile_backend.inductor import without_codegen
from tile_backend.lowering import gate, interpreted, oracle, run_time_check
from tile_backend.lowering.budget import within_budget
from tile_backend.lowering.check_request import Check, Request

OPTIONS = {"tilegym.verify": "always", "tilegym.kernels": "interpret"}


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing was saved before, and what is goes to a folder of this test."""
    monkeypatch.setattr(divergence, "_saved", {})
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is checked at run time: "rms_norm forward"."""
    seen: list[str] = []
    called = run_time_check.called

    def noted(asked: Request, given: Any) -> Any:
        seen.append(f"{asked.op} {asked.part}")
        return called(asked, given)

    monkeypatch.setattr(run_time_check, "called", noted)
    return seen


class Fault:
    """Makes the interpreted kernels of one op write wrong results, once switched on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.op = ""
        run = interpreted.run

        def off(record: Any, arguments: Any, outputs: Any) -> None:
            run(record, arguments, outputs)
            for output in outputs if record.op.name == self.op else ():
                output.add_(0.5)

        monkeypatch.setattr(interpreted, "run", off)


@pytest.fixture
def fault(monkeypatch: pytest.MonkeyPatch) -> Fault:
    return Fault(monkeypatch)


def compiled(function: Callable[..., Any], dynamic: bool | None = None, **options: Any) -> Any:
    torch.compiler.reset()
    given = {**OPTIONS, **{f"tilegym.{name}": value for name, value in options.items()}}
    return torch.compile(function, backend="tilegym", dynamic=dynamic, options=given)


@pytest.mark.usefixtures("graphs_only")
@pytest.mark.parametrize("kernels", ("always", "interpret"))
def test_every_call_is_checked(checks: list[str], kernels: str) -> None:
    model = named.build("llama", torch.bfloat16)
    run, given = compiled(model, kernels=kernels), INPUTS["padded"](model)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("error", ResultDiverged)
        wide = oracle.widened(model)
        with oracle.Float64():
            exact = wide(**INPUTS["padded"](wide)).logits
        for _ in range(2):
            verdict = within_budget(run(**given).logits, exact, model(**given).logits)
            assert verdict, str(verdict)
    assert len(checks) == 22
    assert {name.split()[1] for name in checks} == {"forward"}


@torch._dynamo.config.patch(specialize_float=True)
@pytest.mark.usefixtures("graphs_only")
def test_the_backward_is_checked_and_sizes_may_change(checks: list[str]) -> None:
    x, other, weight = (t.requires_grad_() for t in x_and_more())

    def program(x: Tensor, other: Tensor, weight: Tensor) -> Tensor:
        return norm(x + other, weight) * F.silu(other)

    run = compiled(program, dynamic=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResultDiverged)
        run(x, other, weight).sum().backward()
        run(x[:3, :5], other[:3, :5], weight).sum().backward()
    parts = {op: checks.count(op) for op in checks}
    assert parts == {
        "add_rms_norm forward": 2,
        "silu_mul forward": 2,
        "add_rms_norm backward": 2,
        "silu_mul backward": 2,
    }


@pytest.mark.usefixtures("graphs_only")
def test_a_wrong_result_is_replaced_saved_and_warned_about_once(
    fault: Fault, tmp_path: Path
) -> None:
    x, _, weight = x_and_more()
    run = compiled(norm, report_dir=str(tmp_path / "report"))
    run(x, weight)
    fault.op = "rms_norm"

    def often() -> None:
        for _ in range(3):
            torch.testing.assert_close(run(x, weight), norm(x, weight))

    with pytest.warns(ResultDiverged) as caught:
        often()
    (warned,) = (w.message for w in caught if isinstance(w.message, ResultDiverged))
    assert "torch.ops.tilegym.rms_norm (forward) is outside its error budget" in str(warned)
    assert "rms_norm norm_program.py:" in str(warned)
    (folder,) = (tmp_path / "report" / "diverged").iterdir()
    assert f"run {folder / 'replay.py'}" in str(warned)
    assert "result 0: max error 0.5" in (folder / "figures.txt").read_text()
    saved = torch.load(folder / "tensors.pt", weights_only=True)
    torch.testing.assert_close(saved["results"][0], norm(x, weight) + 0.5)
    torch.testing.assert_close(saved["given"][0], x)
    with pytest.raises(AssertionError, match="now:  output 0 OVER BUDGET"):
        divergence.replay(folder)
    fault.op = ""
    text = divergence.replay(folder)
    assert "then: output 0 OVER BUDGET" in text
    assert "now:  output 0 ok" in text


@pytest.mark.usefixtures("graphs_only")
def test_a_wrong_gradient(fault: Fault, tmp_path: Path) -> None:
    x, _, weight = (t.requires_grad_() for t in x_and_more())
    expected = torch.autograd.grad(norm(x, weight).square().sum(), (x, weight))
    run = compiled(norm)
    output = run(x, weight).square().sum()
    fault.op = "rms_norm_grad"
    with pytest.warns(ResultDiverged, match=r"rms_norm \(backward\) .* gradient of x: max error"):
        found = torch.autograd.grad(output, (x, weight))
    torch.testing.assert_close(found, expected)
    (folder,) = (tmp_path / "tilegym-report" / "diverged").iterdir()
    with pytest.raises(AssertionError, match="now:  output 0 OVER BUDGET"):
        divergence.replay(folder)
    fault.op = ""
    ran = subprocess.run(
        [sys.executable, folder / "replay.py"], capture_output=True, text=True, check=True
    )
    assert ran.stdout.startswith("torch.ops.tilegym.rms_norm (backward)\nthen: output 0 OVER")


@pytest.mark.usefixtures("graphs_only")
def test_strict_raises(fault: Fault) -> None:
    x, _, weight = x_and_more()
    run = compiled(norm, strict="expect")
    run(x, weight)
    fault.op = "rms_norm"
    for _ in range(2):
        with pytest.raises(ResultRefused, match=r"is outside its error budget: result 0: max er"):
            run(x, weight)


@pytest.mark.usefixtures("graphs_only")
def test_a_folder_that_cannot_be_written(fault: Fault, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    x, _, weight = x_and_more()
    run = compiled(norm)
    fault_text = "Its inputs could not be saved: "
    run(x, weight)
    (tmp_path / "tilegym-report").write_text("in the way")
    fault.op = "rms_norm"
    with pytest.warns(ResultDiverged, match=fault_text):
        torch.testing.assert_close(run(x, weight), norm(x, weight))


@pytest.mark.usefixtures("graphs_only")
def test_steps_are_checked_as_what_they_stand_for(
    checks: list[str], fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decoding in two steps: many keys, few heads."""
    monkeypatch.setattr(gate, "ASSUMED_MULTIPROCESSORS", 8)
    q, kv = torch.randn(1, 2, 1, 16), torch.randn(1, 1, 2048, 16)

    def attend(q: Tensor, k: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, k, enable_gqa=True)

    run = compiled(attend)
    torch.testing.assert_close(run(q, kv), attend(q, kv))
    assert checks == ["attention forward"]
    fault.op = "attention_join"
    with pytest.warns(ResultDiverged, match=r"attention \(forward\)"):
        torch.testing.assert_close(run(q, kv), attend(q, kv))


def test_generated_code_checks(checks: list[str], fault: Fault) -> None:
    """Through Inductor's code, in training."""
    x, other, weight = (t.requires_grad_() for t in x_and_more())

    def program(x: Tensor, other: Tensor, weight: Tensor) -> Tensor:
        return norm(x + other, weight)

    run = compiled(program)
    run(x, other, weight).sum().backward()
    assert checks == ["add_rms_norm forward", "add_rms_norm backward"]
    fault.op = "add_rms_norm"
    with pytest.warns(ResultDiverged):
        torch.testing.assert_close(run(x, other, weight), program(x, other, weight))


def test_a_request_survives_as_text() -> None:
    check = Check(raises=True, folder='a "b"', site="model.norm", runs="interpreted")
    numbers = {"eps": 1e-6, "fill": float("-inf"), "dtype": torch.bfloat16, "window": None}
    request = Request(check, "attention", ("q", "k", 0), numbers, ("q",))
    assert Request.of(request.to_text()) == request
    assert Check.of(check.to_text()) == check


def test_a_checked_op_computes_what_the_op_does() -> None:
    x, _, weight = x_and_more()
    op = torch.ops.tilegym.rms_norm
    checked = torch.ops.tilegym.checked_rms_norm(x, weight, 1e-6, check=Check().to_text())
    assert torch.equal(checked, op(x, weight, 1e-6))
    x.requires_grad_()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = torch.ops.tilegym.checked_rms_norm(x, weight, 1e-6, check=Check().to_text())
        (gradient,) = torch.autograd.grad(again.sum(), x)
    assert torch.equal(gradient, torch.autograd.grad(op(x, weight, 1e-6).sum(), x)[0])
    x.requires_grad_(False)
    with without_codegen():
        wide = torch.func.vmap(
            lambda row: torch.ops.tilegym.checked_rms_norm(
                row, weight, 1e-6, check=Check().to_text()
            )
        )(x)
    torch.testing.assert_close(wide, checked)
