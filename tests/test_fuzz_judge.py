"""The fuzzer sees what is wrong: in results, inputs, gradients, memory, and where something raises.

Without these tests "0 wrong" would say nothing: a judge that errs in its own oracle lets all pass.
"""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.fuzz import finding
from tests.fuzz.limits import Limits
from tests.fuzz.outcome import Ours, Verdict, judged
from tests.fuzz.program import Input, Program, Statement
from tests.fuzz.reduce import reduced
from tests.fuzz.ways import Capture, Way, tried
from tests.lint.source_tree import ROOT

NORM = (
    "square = old.pow(2)",
    "mean = square.mean(-1, keepdim=True)",
    "root = torch.rsqrt(mean + 1e-06)",
    "y = old * root",
)

NAN, INF = math.nan, math.inf


def program(*texts: str, results: tuple[str, ...] = ("y",), trains: bool = False) -> Program:
    inputs = tuple(
        Input(name, (3, 16), torch.float32, grad=grad) for name, grad in (("x", True), ("r", False))
    )
    statements = tuple(Statement(text, "by hand") for text in texts)
    return Program(inputs, statements, results, ({"V": 2},), trains)


def verdict(of: Program, change: Callable[..., Any]) -> Verdict:
    """Of a compiler that makes this of the results and the inputs."""

    def ours(**inputs: torch.Tensor) -> Any:
        return change(of.function(**inputs), inputs)

    return judged(of, lambda program: Ours(ours))[1]


def test_what_is_right_is_called_right() -> None:
    of = program("old = x * 2.0", *NORM, trains=True)
    assert verdict(of, lambda results, inputs: results).kind == "right"


def test_a_wrong_number_is_seen_in_every_place() -> None:
    of = program("old = x * 2.0", "r.add_(1.0)", *NORM, trains=True)
    changes: dict[str, Callable[..., Any]] = {
        "wrong result": lambda results, inputs: [results[0] * 1.001],
        "wrong input": lambda results, inputs: (inputs["r"].add_(0.001), results)[1],
        "wrong gradient": lambda results, inputs: [
            results[0] + (inputs["x"] - inputs["x"].detach()) * 0.001
        ],
    }
    kinds = {name: verdict(of, change).kind for name, change in changes.items()}
    assert kinds.pop("wrong result") in ("wrong result", "wrong gradient")  # it has both
    assert kinds == {name: name for name in kinds}


def test_other_memory_and_other_strides_are_seen() -> None:
    of = program("y = r.clone()")
    assert verdict(of, lambda results, inputs: [inputs["r"]]).kind == "sharing"
    assert verdict(of, lambda results, inputs: [results[0].t().contiguous().t()]).kind == "layout"


def test_what_raises_is_seen_unless_eager_raises() -> None:
    def raises(**inputs: torch.Tensor) -> Any:
        raise ValueError("no")

    fails = judged(program("y = x.sin()"), lambda program: Ours(raises))[1]
    assert (fails.kind, fails.text) == ("raises", "forward: ValueError: no")
    refused = judged(program("y = x.view(7)"), lambda program: Ours(raises))[1]
    assert refused.kind == "refused"


@pytest.mark.parametrize(
    ("name", "theirs", "ours", "limits", "kept"),
    [
        ("gradient x", NAN, INF, Limits(rewritten=True), True),
        ("gradient x", INF, -INF, Limits(rewritten=True), True),
        ("gradient x", NAN, 1.0, Limits(rewritten=True), False),
        ("gradient x", 1.0, NAN, Limits(rewritten=True), False),
        ("result y", NAN, INF, Limits(rewritten=True), False),
        ("gradient x", NAN, INF, Limits(), False),
        ("result y", NAN, 1.0, Limits(attention=True), True),
        ("result y", 2.0, 1.0, Limits(attention=True), False),
    ],
)
def test_only_what_the_limits_name_is_let_pass(
    name: str, theirs: float, ours: float, limits: Limits, kept: bool
) -> None:
    found, wanted = torch.tensor([ours, 3.0]), torch.tensor([theirs, 4.0])
    applied = limits.applied(name, found, wanted.double(), wanted).tolist()
    assert applied[1] == 3.0
    assert str(applied[0]) == str(theirs if kept else ours)


@pytest.mark.parametrize(
    ("ours", "exact", "kept"), [(1e-6, 0.0, True), (1e-3, 0.0, False), (1e-6, 1.0, False)]
)
def test_a_gradient_of_attention_may_cancel_to_nearly_0(
    ours: float, exact: float, kept: bool
) -> None:
    found, wide = torch.tensor([ours, 0.0]), torch.tensor([exact, 0.0], dtype=torch.float64)
    limits = Limits(attention=True)
    applied = limits.applied("gradient q", found, wide, wide.float())
    assert torch.equal(applied, wide.float() if kept else found)


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16, torch.float16), ids=str)
@pytest.mark.parametrize(("error", "kept"), [(2**-20, True), (2**-10, False)])
def test_a_gradient_of_attention_may_be_wrong_by_roundings_to_float32(
    dtype: torch.dtype, error: float, kept: bool
) -> None:
    """Of terms of size 1, whatever dtype the gradient is in: bfloat16's own roundings are large."""
    wide = torch.tensor([0.0, 1.0], dtype=torch.float64)
    found = torch.tensor([error, 1.0], dtype=dtype)
    applied = Limits(attention=True).applied("gradient q", found, wide, wide.to(dtype))
    assert torch.equal(applied, wide.to(dtype) if kept else found)


@pytest.mark.parametrize("write", ["r.copy_(x.detach())", "r += 1.0", "r.fill_(2.0)"])
def test_a_write_that_is_not_seen_shows(write: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The operand of a site is written to between its steps, and our eyes are shut."""
    monkeypatch.setattr("tile_backend.lowering.effects.written", lambda node: [])
    monkeypatch.setattr("tile_backend.lowering.read_place.written", lambda node: [])
    of = program("old = r", *NORM[:2], write, *NORM[2:])
    result = tried(of)
    assert result.rewritten() == {"rms_norm": 1}
    assert result.verdict.kind == "wrong result"


@pytest.mark.parametrize("capture", ("graph", "dynamo", "aot"))
def test_a_failure_of_ours_shows_though_the_site_is_only_declined(
    capture: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("by 0")

    monkeypatch.setattr("tile_backend.lowering.describe.bindings", fail)
    verdict = tried(program("old = r", *NORM), Way(capture)).verdict
    assert verdict.kind == "raises"
    assert "OwnFailure" in verdict.text
    assert "by 0" in verdict.text


def test_a_failure_is_made_small_and_its_script_runs_alone(tmp_path: Path) -> None:
    of = program("a = r.sin()", "b = a + r", "old = r.clone()", "c = b.cos()", *NORM)

    def fails(smaller: Program) -> bool:
        return "r.clone()" in smaller.source and "rsqrt" in smaller.source

    small = reduced(of, fails, attempts=500)
    assert fails(small)
    assert len(small.statements) == 2
    path = tmp_path / "finding.py"
    kept = dataclasses.replace(of, statements=of.statements)
    path.write_text(finding.script(kept, Verdict("wrong result", "x"), Way(), "always"))
    command = [sys.executable, "-W", "ignore", str(path)]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr
    assert said.stdout.splitlines()[-1] == "done"
