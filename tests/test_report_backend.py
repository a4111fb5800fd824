"""Options, reports and strict modes where a user meets them: through torch.compile."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.exc import BackendCompilerFailed

import tile_backend
from tests.json_schema import violations
from tile_backend import errors, lock_file

pytestmark = pytest.mark.usefixtures("graphs_only")

SCHEMA = json.loads((Path(__file__).parents[1] / "docs" / "report.schema.json").read_text())


class Norm(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.rand(64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


class LateEpsilon(Norm):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weight * (x / (x.pow(2).mean(-1, keepdim=True).sqrt() + 1e-6))


class Stack(torch.nn.Module):
    def __init__(self, *layers: torch.nn.Module) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


def compiled(model: torch.nn.Module | None = None, **options: Any) -> torch.Tensor:
    ours = {f"tilegym.{name}": value for name, value in options.items()}
    model = model or Stack(Norm(), Norm(), LateEpsilon())
    with torch.no_grad():
        return torch.compile(model, backend="tilegym", options=ours)(torch.randn(4, 64))


def refused(kind: type[Exception], **options: Any) -> str:
    with pytest.raises(BackendCompilerFailed) as caught:
        compiled(**options)
    assert isinstance(caught.value.inner_exception, kind)
    return str(caught.value.inner_exception)


def last() -> tile_backend.Report:
    report = tile_backend.last_report()
    assert report is not None
    return report


def test_the_last_report_tells_what_was_compiled() -> None:
    compiled()
    assert (last().title, last().counts) == ("Stack", {"rms_norm": 2})
    assert "rms_norm x2  layers.{0..1}" in last().to_text()
    assert "near miss" in last().to_text()
    assert "epsilon is added after the root" in last().to_text()
    assert list(violations(json.loads(last().to_json()), SCHEMA, SCHEMA, "report")) == []


def test_the_last_report_agrees_with_explain() -> None:
    model = Stack(Norm(), LateEpsilon())
    compiled(model)
    with torch.no_grad():
        explained = tile_backend.explain(model, torch.randn(4, 64))
    assert explained.to_json() == last().to_json()


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    (
        (
            {"kernals": "auto"},
            errors.UnknownOption,
            "the nearest known option is 'tilegym.kernels'",
        ),
        ({"strict": "on"}, errors.BadOptionValue, "allowed is 'off', 'expect', 'no-fallback'"),
        ({"tune": "yes"}, errors.BadOptionValue, "allowed is 'off', 'on'"),
        ({"fusions": ["rmsnorm"]}, errors.UnknownFusion, "the nearest known one is 'rms_norm'"),
        (
            {"strict": "expect", "expect": {"rms_norm": 3}},
            errors.ExpectationNotMet,
            "rms_norm: 2 of 3 expected\n    nearest: near-miss rms_norm layers.2",
        ),
        ({"expect": "no-such.lock.json"}, errors.LockFileError, "No such file or directory"),
        (
            {"strict": "no-fallback", "kernels": "always"},
            errors.FallbackRefused,
            "fused rms_norm x2 layers.{0..1}",
        ),
    ),
)
def test_what_raises_reaches_the_user_as_the_inner_exception(
    options: dict[str, Any], kind: type[Exception], words: str
) -> None:
    assert words in refused(kind, **options)


def test_a_missed_expectation_warns_while_strict_is_off() -> None:
    with pytest.warns(errors.ExpectationMissed, match="rms_norm: 2 of 3 expected"):
        compiled(expect={"rms_norm": 3})


def test_a_lock_file_of_explain_holds_for_the_compile(tmp_path: Path) -> None:
    model, path = Stack(Norm(), Norm()), tmp_path / "stack.json"
    with torch.no_grad():
        lock_file.save(tile_backend.explain(model, torch.randn(4, 64)), path)
    compiled(model, strict="expect", expect=str(path))
    words = refused(errors.ExpectationNotMet, strict="expect", expect=str(path), fusions=[])
    assert "rms_norm: 0 of 2 expected, lost at layers.{0..1}" in words


def test_report_dir_holds_the_dump(tmp_path: Path) -> None:
    compiled(report_dir=str(tmp_path / "dump"))
    assert (tmp_path / "dump" / "report.txt").read_text() == last().to_text() + "\n"
    assert (tmp_path / "dump" / "001_rms_norm__layers.N" / "diff.txt").is_file()


def test_a_report_dir_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    options = {"report_dir": str(tmp_path / "file")}
    words = refused(errors.ReportFolderError, strict="expect", **options)
    with pytest.warns(errors.ReportNotSaved, match=re.escape(words)):
        compiled(**options)
    assert last().counts == {"rms_norm": 2}
    assert "Point tilegym.report_dir (or TILEGYM_REPORT_DIR) at a folder" in words


RAN: list[str] = []


def given_up(x: torch.Tensor) -> torch.Tensor:
    """Dynamo leaves a function whose exception nobody catches to the interpreter, whole."""
    RAN.append("real code")
    mask: Any = None
    return torch.nn.functional.silu(x) * x * mask.shape[0]


def test_explain_stops_where_dynamo_gives_a_function_up() -> None:
    report = tile_backend.explain(given_up, torch.randn(4, 64))
    assert RAN == []
    assert not report.complete
    assert re.search(r"at test_report_backend\.py:\d+$", report.stopped)
    assert report.stopped in report.to_text()


def test_excluded_modules_are_declined_with_their_reason() -> None:
    compiled(Stack(Norm(), Norm()), exclude=["layers.0"])
    assert last().counts == {"rms_norm": 1}
    declined = last().having("declined")
    assert [site.module for site in declined] == ["layers.0"]
    assert declined[0].reason is not None
    assert declined[0].reason.kind == "excluded_by_user"


def test_a_glob_that_matches_nothing_warns_with_the_paths_seen() -> None:
    with pytest.warns(errors.UnmatchedGlob, match=r"'model\.layers\.\*' matches no module"):
        compiled(include=["model.layers.*"])


def test_a_scope_reaches_the_compile() -> None:
    with tile_backend.fusions(disable="rms_norm"):
        compiled()
    assert last().counts == {}
    with pytest.warns(errors.NothingCompiled), tile_backend.fusions(disable="rms_norm"):
        torch.compile(Norm(), backend="tilegym")


def test_explain_inside_a_scope_uses_it_and_does_not_warn() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", errors.NothingCompiled)
        with tile_backend.fusions(disable="rms_norm"):
            assert tile_backend.explain(Norm(), torch.randn(4, 64)).counts == {}


def test_one_line_at_info_and_a_warning_when_nothing_was_fused(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO, logger="tile_backend"):
        compiled()
        compiled(Stack(LateEpsilon()))
    found = [(r.levelname, r.getMessage()) for r in caplog.records if r.name.endswith("remarks")]
    assert found[0] == ("INFO", "Stack: 2 sites fused, 0 declined, 1 near miss (rms_norm 2)")
    assert found[1] == ("INFO", "Stack: 0 sites fused, 0 declined, 1 near miss")
    assert found[2][0] == "WARNING"
    assert "Stack: nothing was fused, although it holds ops of" in found[2][1]
    assert "epsilon is added after the root" in found[2][1]


def test_torch_logs_shows_every_decision() -> None:
    code = (
        "import torch, tests.test_report_backend as t\n"
        "from tile_backend import inductor\n"
        "with inductor.without_codegen(): t.compiled()\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"TORCH_LOGS": "+tile_backend", "PATH": "", "PYTHONPATH": "."},
        cwd=Path(__file__).parents[1],
    )
    assert "Stack: 2 sites fused, 0 declined, 1 near miss (rms_norm 2)" in ran.stderr
    assert "fused rms_norm x2 layers.{0..1} test_report_backend.py:" in ran.stderr
    assert "near-miss rms_norm layers.2 test_report_backend.py:" in ran.stderr
