"""What is not taken for a failure of ours, and what strict modes, dumps and the log make of one."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.exc import BackendCompilerFailed

import tile_backend
from tests.models.check import assert_like_eager
from tests.planted_failures import (
    ALWAYS,
    WORDS,
    Place,
    handed_over,
    inputs,
    program,
    raises,
    title,
    twin,
)
from tile_backend import dump_page, errors, graph_diff
from tile_backend.lowering import (
    failure,
    legality,
    match,
)
from tile_backend.lowering.reason import Reason
from tile_backend.rewrite_entry import RewriteEntry

Tensor = torch.Tensor


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Our ops in each graph that Inductor gets."""
    return handed_over(monkeypatch)


@pytest.mark.parametrize("strict", ("off", "expect"))
def test_no_strict_mode_but_one_raises_for_a_site(
    strict: str, monkeypatch: pytest.MonkeyPatch, graphs: list[list[str]]
) -> None:
    Place(legality, "call").plant(monkeypatch)
    assert_like_eager(program, *inputs(), options={**ALWAYS, "tilegym.strict": strict})
    assert graphs == [["silu_mul"]]


@pytest.mark.parametrize("place", (Place(legality, "call"), Place(match, "match_of")), ids=title)
def test_no_fallback_takes_a_failure_for_a_fallback(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a site, and of what is no site's."""
    place.plant(monkeypatch)
    options = {"tilegym.kernels": "auto", "tilegym.strict": "no-fallback"}
    with pytest.raises(BackendCompilerFailed) as caught:
        assert_like_eager(program, *inputs(), options=options)
    assert isinstance(caught.value.inner_exception, errors.FallbackRefused)
    assert WORDS in str(caught.value.inner_exception)


MEANT = (
    torch._dynamo.exc.SkipFrame("not ours"),
    torch._dynamo.exc.TensorifyScalarRestartAnalysis("not ours"),
    torch._dynamo.exc.UserError(torch._dynamo.exc.UserErrorType.INVALID_INPUT, "not ours"),
    errors.FallbackRefused(count=1, remarks="not ours"),
    errors.CertificateFailed(fusion="", modules="", source="", text="not ours"),
    KeyboardInterrupt("not ours"),
)


@pytest.mark.parametrize("meant", MEANT, ids=lambda meant: type(meant).__name__)
def test_what_is_meant_for_others_passes(meant: BaseException) -> None:
    def interrupts() -> None:
        raise meant

    with pytest.raises(type(meant), match="not ours"):
        failure.tried("checking it", None, interrupts)
    with pytest.raises(type(meant), match="not ours"):
        failure.instead(None, "checking it", None, interrupts)


def test_a_frame_that_is_skipped_from_within_is_skipped(
    monkeypatch: pytest.MonkeyPatch, graphs: list[list[str]]
) -> None:
    def skips(*args: Any) -> Any:
        raise torch._dynamo.exc.SkipFrame("not ours")

    monkeypatch.setattr(legality, "call", skips)
    torch._dynamo.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = torch.compile(twin(program), backend="tilegym")(*inputs())
    assert graphs == []
    assert all(map(torch.equal, found, program(*inputs())))


def test_the_traceback_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("DEBUG", "tile_backend"):
        reason = failure.tried("checking it", None, raises)
    assert isinstance(reason, Reason)
    assert reason.text == "checking it failed inside tile-backend: Planted: in the way"
    (record,) = caplog.records
    assert record.exc_info is not None
    assert "def raises" not in record.message


def test_an_entry_of_the_dump_that_fails_costs_that_entry(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    report = tile_backend.explain(program, *inputs())
    Place(RewriteEntry, "diff").plant(monkeypatch)
    Place(graph_diff, "script").plant(monkeypatch)
    Place(dump_page, "entry_object").plant(monkeypatch)
    report.save(tmp_path)
    texts = {file.parent.name[4:]: file.read_text() for file in tmp_path.rglob("diff.txt")}
    assert "silu" in texts["silu_mul__root"]
    assert WORDS in texts["rms_norm__root"]
    page = (tmp_path / "index.html").read_text()
    assert WORDS in page
    assert "silu_mul__root" in page
    assert WORDS in graph_diff.text(report)
