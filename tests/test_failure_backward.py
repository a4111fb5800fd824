"""A backward that Inductor cannot compile runs all the same: it is compiled when it first runs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import fx

from tests.planted_failures import ALWAYS, Planted, ops_in, raises
from tests.test_failure_compile import compared, compiling, inputs, never, plain
from tile_backend import errors, graph_diff, remarks
from tile_backend.lowering.launch_place import force_direct_launch


def backwards(module: fx.GraphModule, backward: bool) -> Exception | None:
    return Planted("in the way") if backward and ops_in(module) else None


@pytest.mark.parametrize("dynamic", (None, True), ids=("static", "dynamic"))
def test_a_backward_that_inductor_refuses_runs_op_by_op(dynamic: bool | None) -> None:
    """The forward has run by then. Where sizes are dynamic it is compiled with the forward."""
    caught: list[Any] = []
    with compiling(backwards) as seen, force_direct_launch():
        report = compared(plain, inputs(trains=True), caught, dynamic)
    assert [part for part, _ in seen] == ["forward", "backward", "backward"], "by name, too"
    (warned,) = caught
    assert isinstance(warned, errors.CompileFailed)
    assert "a backward graph, so it runs op by op" in str(warned)
    assert "Planted: in the way" in str(warned)
    assert sum(report.counts.values()) == 2


def test_a_backward_of_other_code_raises_as_ever() -> None:
    torch._dynamo.reset()
    with compiling(lambda module, backward: ValueError("theirs") if backward else None):
        compiled = torch.compile(lambda x: x.sin(), backend="tilegym", options=ALWAYS)
        result = compiled(torch.ones(3, requires_grad=True))
        with pytest.raises(Exception, match="theirs"):
            result.sum().backward()


def test_a_backward_raises_under_a_strict_mode() -> None:
    torch._dynamo.reset()
    options = {"tilegym.strict": "expect", **ALWAYS}
    with compiling(backwards), force_direct_launch():
        given = inputs(trains=True)
        result = torch.compile(plain, backend="tilegym", options=options)(*given)
        with pytest.raises(errors.PassFailed, match="Planted: in the way"):
            result.sum().backward()


def test_parts_of_a_report_that_fail_cost_no_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remarks, traces and dumps are said of a program, and do not run it."""
    for module, name in ((remarks, "emit"), (graph_diff, "text")):
        caught: list[Any] = []
        with monkeypatch.context() as patch, compiling(never) as seen:
            patch.setattr(module, name, raises)
            if module is graph_diff:
                patch.setattr("tile_backend.sessions.trace_artifact", lambda n, e, text: text())
            report = compared(plain, inputs(), caught)
        assert seen[0][1] == ["rms_norm", "silu_mul"]
        assert sum(report.counts.values()) == 2
        (warned,) = caught
        assert isinstance(warned, errors.ReportIncomplete)
