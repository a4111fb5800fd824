"""Files that a user names: lock files, reports, a configuration. They are data, and checked.

Whoever names one trusts who wrote it to say what is expected, not to run anything.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.disk_faults import cuts
from tests.report_samples import REPORT
from tile_backend import lock_file, saved_report
from tile_backend.errors import BadTarget, DumpError, LockFileError
from tile_backend.targets import Request

NOT_JSON = (b"", b"\xff\xfe", b"[" * 100_000, b"null", b"[]", b"3", b'"text"', b"\x80\x05N.")


@pytest.mark.parametrize("content", NOT_JSON, ids=lambda content: repr(content[:4]))
def test_what_is_neither_a_lock_file_nor_a_report_is_refused(
    content: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "file.json"
    path.write_bytes(content)
    with pytest.raises(LockFileError, match="cannot use"):
        lock_file.load(path)
    with pytest.raises(DumpError, match="cannot read"):
        saved_report.load(path)


def test_one_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    lock, report = tmp_path / "lock.json", tmp_path / "report.json"
    for content in cuts(lock_file.dumps(REPORT).encode().rstrip(), 30):
        lock.write_bytes(content)
        with pytest.raises(LockFileError):
            lock_file.load(lock)
    for content in cuts(REPORT.to_json().encode().rstrip(), 30):
        report.write_bytes(content)
        with pytest.raises(DumpError):
            saved_report.load(report)


REPORTS: dict[str, Callable[[Any], object]] = {
    "no sites": lambda report: report.pop("sites"),
    "sites are a number": lambda report: report.update(sites=3),
    "a site is a text": lambda report: report.update(sites=["site"]),
    "a title that is none": lambda report: report.update(title=None),
    "a version that is none": lambda report: report.update(tile_backend=[1]),
    "a module that is none": lambda report: report["sites"][0].update(module=7),
    "a site without a source": lambda report: report["sites"][0].pop("source"),
    "bindings that are none": lambda report: report["sites"][0].update(bindings=[1]),
    "a decision that is a text": lambda report: report["sites"][0].update(decision="kernel"),
    "a decision without a choice": lambda report: report["sites"][0].update(decision={}),
    "a reason without a text": lambda report: report["sites"][0].update(reason={"kind": "x"}),
}


@pytest.mark.parametrize("name", REPORTS)
def test_a_report_of_another_form_is_refused(name: str, tmp_path: Path) -> None:
    content = json.loads(REPORT.to_json())
    (tmp_path / "report.json").write_text(json.dumps(content))
    assert len(saved_report.load(tmp_path).sites) == len(REPORT.sites)
    REPORTS[name](content)
    (tmp_path / "report.json").write_text(json.dumps(content))
    with pytest.raises(DumpError, match="it is no report"):
        saved_report.load(tmp_path)


@pytest.mark.parametrize(
    "path",
    (
        "layers.{0..99999999999999}.mlp",
        ".".join(["{0..999}"] * 4),
        "layers.{0..}",
        "layers.{..3}",
        "layers.{0,,1}",
        f"layers.{{0..{'9' * 5000}}}",
    ),
    ids=lambda path: path[:24],
)
def test_a_lock_file_cannot_stand_for_endless_modules(path: str, tmp_path: Path) -> None:
    content = {"schema_version": lock_file.SCHEMA_VERSION, "sites": {"rms_norm": {path: 1}}}
    (tmp_path / "lock.json").write_text(json.dumps(content))
    with pytest.raises(LockFileError, match="a folded module path cannot be read"):
        lock_file.load(tmp_path / "lock.json")


def test_the_code_beside_a_configuration_is_not_run(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    auto_map = {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"}
    config = {"model_type": "of_its_own", "auto_map": auto_map}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(BadTarget, match="Transformers cannot build it"):
        Request(str(tmp_path)).resolve()
    assert not (tmp_path / "ran").exists()
