"""Expectations and lock files: what is lost, in which words, and which strict mode raises."""

from __future__ import annotations

import dataclasses
import json
import warnings
from pathlib import Path
from typing import Any

import pytest

from tests.report_samples import FACTS, REPORT, declined, norm
from tile_backend import errors, lock_file
from tile_backend.expectations import FALLBACKS, enforce, fallbacks, lost_sites
from tile_backend.lowering.reason import Reason, ReasonKind
from tile_backend.options import Options
from tile_backend.report import Report

FEWER = Report("Tiny", tuple(s for s in REPORT.sites if "layers.2" not in s.module), (FACTS,))


def options(**values: Any) -> Options:
    return Options.parse({f"tilegym.{name}": value for name, value in values.items()}, {})[0]


@pytest.fixture
def lock(tmp_path: Path) -> str:
    path = tmp_path / "tiny.lock.json"
    lock_file.save(REPORT, path)
    return str(path)


def test_a_lock_file_reads_well(lock: str) -> None:
    assert json.loads(Path(lock).read_text()) == {
        "schema_version": 1,
        "title": "Tiny",
        "written_by": "python -m tile_backend lock TARGET",
        "sites": {"rms_norm": {"model.layers.{0..3}.input_layernorm": 1, "model.norm": 1}},
    }


def test_a_lock_file_keeps_every_site(lock: str) -> None:
    assert lock_file.load(lock) == lock_file.fused_sites(REPORT)


def test_several_sites_of_one_module_are_counted(tmp_path: Path) -> None:
    report = Report("f", (norm("a.0"), norm("a.0"), norm("a.1"), norm("")), (FACTS,))
    path = tmp_path / "lock.json"
    lock_file.save(report, path)
    assert json.loads(path.read_text())["sites"] == {"rms_norm": {"": 1, "a.0": 2, "a.1": 1}}
    assert lock_file.load(path) == {"rms_norm": {"": 1, "a.0": 2, "a.1": 1}}


def test_what_is_expected_and_found_passes(lock: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        enforce(REPORT, options(strict="expect", expect=lock))
        enforce(REPORT, options(strict="expect", expect={"rms_norm": 5}))
        enforce(REPORT, options(strict="expect", expect={"rms_norm": 4, "attention": 0}))
        enforce(REPORT, options(strict="no-fallback"))


def test_a_lost_site_is_named_with_its_nearest_candidate(lock: str) -> None:
    with pytest.raises(errors.ExpectationNotMet) as caught:
        enforce(FEWER, options(strict="expect", expect=lock))
    assert str(caught.value) == (
        "Tiny: fewer sites were fused than expected.\n"
        "  rms_norm: 4 of 5 expected, lost at model.layers.2.input_layernorm\n"
        "    nothing like it was found there\n"
        "Compare with `python -m tile_backend explain`; if the change is intended, write the "
        "lock file again with `python -m tile_backend lock`."
    )


def test_a_lost_count_names_the_first_differing_op() -> None:
    with pytest.raises(errors.ExpectationNotMet) as caught:
        enforce(REPORT, options(strict="expect", expect={"add_rms_norm": 1, "rms_norm": 5}))
    assert (
        "  add_rms_norm: 0 of 1 expected\n"
        "    nearest: near-miss add_rms_norm model.final modeling.py:71: 9/10 ops; epsilon is "
        "added after the root, where before is expected. fix: add it to the mean\n"
    ) in str(caught.value)


def test_a_candidate_of_another_fusion_counts_if_the_module_agrees() -> None:
    locked = {"silu_mul": 1, "gelu_mul": 1}
    lost = lost_sites(REPORT, options(expect=locked))
    assert {one.fusion: one.nearest and one.nearest.module for one in lost} == {
        "gelu_mul": None,
        "silu_mul": "model.layers.0.mlp",
    }


def test_strict_off_warns_instead(lock: str) -> None:
    with pytest.warns(errors.ExpectationMissed, match=r"4 of 5 expected, lost at model\.layers\.2"):
        enforce(FEWER, options(expect=lock))


@pytest.mark.parametrize("kind", sorted(FALLBACKS))
def test_no_fallback_raises_with_the_remark(kind: ReasonKind) -> None:
    reason = Reason(kind, "no kernel for sm_75", fix="use a newer GPU")
    report = Report("f", (declined("a.0", reason), declined("a.1", reason)), (FACTS,))
    enforce(report, options(strict="expect"))
    with pytest.raises(errors.FallbackRefused) as caught:
        enforce(report, options(strict="no-fallback"))
    assert str(caught.value) == (
        "tilegym.strict='no-fallback': 2 site(s) would not run as wanted.\n"
        "  declined silu_mul x2 a.{0..1} modeling.py:61: no kernel for sm_75. fix: use "
        "a newer GPU\n"
        "Follow the fix above, or use tilegym.strict='expect' to allow it."
    )


def test_no_fallback_raises_for_a_fused_site_that_cannot_run_its_kernel() -> None:
    missing = Reason(ReasonKind.MISSING_DEPENDENCY, "cuda-tile is not installed", fix="install it")
    report = Report("f", (dataclasses.replace(norm("a"), fallback=missing),), (FACTS,))
    with pytest.raises(errors.FallbackRefused) as caught:
        enforce(report, options(strict="no-fallback"))
    assert (
        "\n  fused rms_norm a modeling.py:67: left to Inductor; cuda-tile is not installed. "
        "fix: install it\n"
    ) in str(caught.value)


def test_a_choice_of_the_gate_is_no_fallback() -> None:
    assert fallbacks(REPORT) == []


def test_no_fallback_includes_expect() -> None:
    with pytest.raises(errors.ExpectationNotMet):
        enforce(FEWER, options(strict="no-fallback", expect={"rms_norm": 5}))


@pytest.mark.parametrize(
    ("text", "words"),
    (
        (None, "No such file or directory"),
        ("{", "it is not JSON"),
        ("[]", "it has no schema_version, and this version reads 1"),
        ('{"schema_version": 0}', "it has schema_version 0, and this version reads 1"),
        ('{"schema_version": 1}', 'its "sites" are not fusion -> module path -> number of sites'),
        ('{"schema_version": 1, "sites": {"a": {"b": 0}}}', 'its "sites" are not fusion'),
        (
            '{"schema_version": 1, "sites": {"a": {"b.{0..}": 1}}}',
            "a folded module path cannot be read",
        ),
    ),
)
def test_a_bad_lock_file(tmp_path: Path, text: str | None, words: str) -> None:
    path = tmp_path / "lock.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(errors.LockFileError) as caught:
        enforce(REPORT, options(expect=str(path)))
    assert words in str(caught.value)
    assert "Write it with: python -m tile_backend lock TARGET." in str(caught.value)
