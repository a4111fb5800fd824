"""A report that cannot be written costs the report: one warning, and the program runs as it should.

Under a strict mode it is an error of ours. What a disk refuses is injected at each step of a write.
"""

from __future__ import annotations

import pathlib
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.exc import BackendCompilerFailed

from tests.disk_faults import STEPS, at, full
from tests.norm_program import norm, x_and_more
from tests.report_samples import FACTS, REPORT
from tests.report_samples import norm as site
from tile_backend import errors, graph_diff, remarks, sessions
from tile_backend.lowering.budget import within_budget
from tile_backend.options import Options
from tile_backend.sessions import Session

TEXTS = {"before": "a", "after": "b"}


def session(folder: object, strict: str = "off") -> Session:
    return Session("f", Options(report_dir=str(folder), strict=strict))


def filled(one: Session) -> None:
    """What a compile tells it, code of forward and backward included."""
    graph = one.add(None, (site("a"),), FACTS, 0.0, TEXTS)
    one.generated(graph, "forward", "code")
    one.generated(graph, "backward", "code")
    one.add(None, (site("b"),), FACTS, 0.0, TEXTS)


def warned(one: Session) -> warnings.WarningMessage:
    """The one warning of all of that."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        filled(one)
    (found,) = caught
    return found


def occupied(folder: Path) -> Path:
    """A file where the folder should be."""
    folder.write_text("in the way")
    return folder


def deep(folder: Path) -> Path:
    return occupied(folder) / "deep" / "er"


def entry_in_the_way(folder: Path) -> Path:
    folder.mkdir()
    return occupied(folder / "001_rms_norm__a").parent


def dangling(folder: Path) -> Path:
    folder.symlink_to(folder.parent / "nowhere" / "else")
    occupied(folder.parent / "nowhere")
    return folder


BAD = {
    "a file in the way": occupied,
    "a file above it": deep,
    "a file in the place of an entry": entry_in_the_way,
    "a link to nowhere": dangling,
    "a nul": lambda folder: f"{folder}\0",
    "a name too long": lambda folder: folder / ("x" * 300),
    "a path too long": lambda folder: folder / "/".join(["x" * 200] * 30),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_folder_is_one_warning(name: str, tmp_path: Path) -> None:
    one = session(BAD[name](tmp_path / "dump"))
    found = warned(one)
    assert found.category is errors.ReportNotSaved
    assert "cannot write the report to" in str(found.message)
    assert "Point tilegym.report_dir" in str(found.message)
    assert len(one.report.sites) == 2
    assert one.report.texts[0]["backward"] == "code"


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("strict", ("expect", "no-fallback"))
def test_a_bad_folder_is_an_error_under_a_strict_mode(
    name: str, strict: str, tmp_path: Path
) -> None:
    with pytest.raises(errors.ReportFolderError, match="cannot write the report"):
        filled(session(BAD[name](tmp_path / "dump"), strict))


@pytest.fixture(params=STEPS)
def full_disk(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """tmp_path: made before the disk is full."""
    at(request.param, monkeypatch)


@pytest.mark.usefixtures("full_disk")
def test_a_full_disk_is_one_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = warned(session(tmp_path / "dump"))
    assert found.category is errors.ReportNotSaved
    assert "No space left on device" in str(found.message)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()], "nothing half written"


@pytest.mark.usefixtures("full_disk")
def test_a_full_disk_is_an_error_under_a_strict_mode(tmp_path: Path) -> None:
    with pytest.raises(errors.ReportFolderError, match="No space left on device"):
        filled(session(tmp_path / "dump", "expect"))


@pytest.mark.parametrize("strict", ("off", "expect"))
def test_a_disk_that_fills_up_leaves_the_dump_that_was_there(
    strict: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = session(tmp_path, strict)
    graph = one.add(None, (site("a"),), FACTS, 0.0, TEXTS)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert before
    at("write", monkeypatch)
    if strict == "off":
        with pytest.warns(errors.DumpNotCompleted, match="No space left on device"):
            one.generated(graph, "backward", "code")
    else:
        with pytest.raises(errors.ReportFolderError, match="No space left on device"):
            one.generated(graph, "backward", "code")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


REFUSALS = {
    "no permission": (pathlib.Path, "mkdir", PermissionError(13, "Permission denied")),
    "no listing": (pathlib.Path, "iterdir", PermissionError(13, "Permission denied")),
    "read-only": (pathlib.Path, "replace", OSError(30, "Read-only file system")),
    "a quota": (pathlib.Path, "mkdir", OSError(122, "Disk quota exceeded")),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_else_a_disk_refuses(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner, method, error = REFUSALS[name]

    def refuse(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(owner, method, refuse)
    assert error.strerror in str(warned(session(tmp_path)).message)


@pytest.mark.parametrize("part", ("page", "entries"))
def test_a_mistake_of_ours_in_a_report_costs_the_report(
    part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mistaken(*_: object) -> None:
        raise KeyError("ours")

    monkeypatch.setattr(graph_diff, part, mistaken)
    assert "KeyError: 'ours'" in str(warned(session(tmp_path)).message)
    with pytest.raises(errors.PassFailed, match="KeyError: 'ours'"):
        filled(session(tmp_path, "expect"))


def test_a_mistake_of_ours_in_the_log_costs_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remarks, "emit", full)
    assert "No space left" in str(warned(session(tmp_path)).message)
    assert (tmp_path / "report.txt").is_file()


def test_two_folders_are_written_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user's is bad; that of TORCH_COMPILE_DEBUG is not."""
    monkeypatch.setattr(sessions, "debug_folder", lambda: tmp_path / "debug")
    warned(session(occupied(tmp_path / "dump")))
    assert len(list((tmp_path / "debug").glob("*/report.txt"))) == 1


def test_a_report_that_is_saved_by_hand_still_raises(tmp_path: Path) -> None:
    with pytest.raises(errors.ReportFolderError):
        REPORT.save(occupied(tmp_path / "dump"))


# --- a compile ------------------------------------------------------------------------------------


def compiled(**options: Any) -> Any:
    torch.compiler.reset()
    ours = {f"tilegym.{name}": value for name, value in options.items()}
    return torch.compile(norm, backend="tilegym", options={"tilegym.kernels": "always"} | ours)


@pytest.mark.usefixtures("graphs_only")
def test_the_program_runs_forward_and_backward(tmp_path: Path) -> None:
    x, _, weight = (t.requires_grad_() for t in x_and_more())
    expected = norm(x, weight)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = compiled(report_dir=str(occupied(tmp_path / "dump")))(x, weight)
        found.sum().backward()
    assert [w.category for w in caught if issubclass(w.category, errors.TileBackendWarning)] == [
        errors.ReportNotSaved
    ]
    assert within_budget((found,), (norm(x.double(), weight.double()),), (expected,))
    assert x.grad is not None


def test_a_strict_compile_says_so(tmp_path: Path) -> None:
    x, _, weight = x_and_more()
    with pytest.raises(BackendCompilerFailed) as caught:
        compiled(report_dir=str(occupied(tmp_path / "dump")), strict="expect")(x, weight)
    assert isinstance(caught.value.inner_exception, errors.ReportFolderError)


@pytest.mark.parametrize("strict", ("off", "expect"))
def test_a_report_that_cannot_be_made_costs_the_report(
    strict: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def raises(*args: Any, **kwargs: Any) -> Any:
        raise ValueError("planted")

    monkeypatch.setattr(Session, "add", raises)
    torch._dynamo.reset()
    options = {"tilegym.strict": strict, "tilegym.kernels": "always"}
    compiled = torch.compile(norm, backend="tilegym", options=options)
    x, weight = x_and_more()[0], x_and_more()[-1]
    if strict != "off":
        with pytest.raises(BackendCompilerFailed, match="planted"):
            compiled(x, weight)
        return
    with pytest.warns(errors.ReportIncomplete, match="planted"):
        found = compiled(x, weight)
    assert within_budget(found, norm(x.double(), weight.double()), norm(x, weight))
