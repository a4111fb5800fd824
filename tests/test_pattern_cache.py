"""Patterns that other processes traced: equal to one's own, and never in the way."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from torch._inductor import config

from tests.disk_faults import STEPS, at
from tests.test_core_identity import declared, double
from tile_backend import pattern_cache
from tile_backend.lowering.registry import Registry
from tile_backend.lowering.trace import Pattern, signature
from tile_backend.patterns import all_fusions


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Inductor's caches, empty; nothing is remembered of other tests."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    pattern_cache.built_in.cache_clear()
    yield tmp_path / pattern_cache.FOLDER
    pattern_cache.built_in.cache_clear()


def again() -> tuple[Pattern, ...]:
    """As in another process."""
    pattern_cache.built_in.cache_clear()
    return pattern_cache.traced(all_fusions())


def seen(patterns: tuple[Pattern, ...]) -> list[Any]:
    return [(p.fusion, p.spelling, p.low, p.size, sorted(p.holes), signature(p)) for p in patterns]


@pytest.fixture
def untraced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing can be traced any more."""

    def refuse(fusion: Any) -> Any:
        raise AssertionError(f"{fusion.name} is traced")

    monkeypatch.setattr(pattern_cache, "patterns", refuse)


def test_read_patterns_are_the_traced_ones(folder: Path, request: pytest.FixtureRequest) -> None:
    own = Registry(all_fusions()).patterns
    assert seen(again()) == seen(own)
    (file,) = folder.iterdir()
    request.getfixturevalue("untraced")
    found = again()
    assert seen(found) == seen(own)
    assert file.suffix == ".patterns"
    holes = [term for pattern in found for term in pattern.holes.values()]
    assert all(hole.op == "hole" for hole in holes)


def test_some_fusions_take_their_part(folder: Path) -> None:
    again()
    some = tuple(fusion for fusion in all_fusions() if fusion.name in ("rotary", "rms_norm"))
    assert seen(pattern_cache.traced(some)) == seen(Registry(some).patterns)


def test_a_users_fusion_is_traced(folder: Path) -> None:
    own = declared(double)
    some = (*all_fusions()[:1], own)
    assert seen(pattern_cache.traced(some)) == seen(Registry(some).patterns)


def test_other_code_has_another_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    again()
    monkeypatch.setattr(pattern_cache, "sources", lambda: "other")
    again()
    assert len(list(folder.iterdir())) == 2


def test_old_files_go(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for version in range(pattern_cache.KEPT + 2):
        monkeypatch.setattr(pattern_cache, "sources", lambda version=version: str(version))
        pattern_cache.write(pattern_cache.path(), b"")
    kept = list(folder.iterdir())
    assert len(kept) == pattern_cache.KEPT
    assert pattern_cache.path() in kept


def test_without_caches_nothing_is_kept(folder: Path) -> None:
    with config.patch(force_disable_caches=True):
        assert again()
    assert not folder.exists()


def test_a_folder_that_cannot_be_made_costs_nothing(folder: Path) -> None:
    folder.parent.mkdir(exist_ok=True)
    folder.write_text("a file is in the way")
    assert seen(again()) == seen(Registry(all_fusions()).patterns)


@pytest.mark.parametrize("step", STEPS)
def test_a_full_disk_costs_nothing_but_the_file(
    step: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at(step, monkeypatch)
    some = all_fusions()[:1]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = tuple(pattern_cache.built_in(some))
    assert seen(found) == seen(Registry(some).patterns)
    assert not [path for path in folder.parent.rglob("*") if path.is_file()]
