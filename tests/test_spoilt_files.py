"""Files of other users, planted ones and nonsense: not believed, not run, and said once.

Of every format that is read on its own accord: traced patterns, compiled kernels, measurements.
"""

from __future__ import annotations

import dataclasses
import logging
import pickle
import re
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.disk_faults import STRANGER, belongs_to, flips
from tests.test_cubin_store import CUBIN, KEY, OTHER, VERSION
from tests.test_pattern_file import FUSIONS, RAN, Planted, seen
from tests.test_tuning_store import ARCH, entry, found
from tile_backend import pattern_cache
from tile_backend.lowering import cubin_store, pattern_file, tuning_file, tuning_store
from tile_backend.lowering.cubin_store import Store, StoreWarning
from tile_backend.lowering.pattern_file import packed
from tile_backend.lowering.trace import Pattern, patterns

# --- traced patterns ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made() -> tuple[Pattern, ...]:
    return tuple(pattern for fusion in FUSIONS for pattern in patterns(fusion))


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: tuple[Pattern, ...]) -> Path:
    """Written by a process before; tracing again is quick, and counted."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    traced = {fusion: tuple(p for p in made if p.fusion is fusion) for fusion in FUSIONS}
    monkeypatch.setattr(pattern_cache, "patterns", traced.__getitem__)
    pattern_cache.built_in.__wrapped__(FUSIONS)
    path = pattern_cache.path()
    assert path is not None
    assert path.is_file()
    return path


def again() -> tuple[Pattern, ...]:
    return tuple(pattern_cache.built_in.__wrapped__(FUSIONS))


def plant(file: Path) -> None:
    file.write_bytes(pickle.dumps(Planted()))


SPOILT: dict[str, Callable[[Path], object]] = {
    "planted": plant,
    "cut off": lambda file: file.write_bytes(file.read_bytes()[:-1]),
    "empty": lambda file: file.write_bytes(b""),
    "flipped": lambda file: file.write_bytes(next(iter(flips(file.read_bytes(), 1)))),
    "of other code": lambda file: file.write_bytes(packed(again(), "other")),
    "writable by others": lambda file: file.chmod(0o666),
    "a link": lambda file: file.rename(f"{file}.other") and file.symlink_to(f"{file}.other"),
}


@pytest.mark.parametrize("how", SPOILT)
def test_what_is_not_right_is_one_line_and_written_anew(
    file: Path,
    made: tuple[Pattern, ...],
    how: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    whole = file.read_bytes()
    SPOILT[how](file)
    with caplog.at_level(logging.DEBUG, "tile_backend"):
        assert seen(again()) == seen(made)
    (line,) = caplog.records
    assert f"{file} is ignored, and written anew: " in line.getMessage()
    assert (file.read_bytes(), file.is_symlink(), file.stat().st_mode & 0o777) == (
        whole,
        False,
        0o644,
    )
    assert RAN == []


def test_what_another_user_has_put_there_is_not_read_and_replaced(
    file: Path,
    made: tuple[Pattern, ...],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    before = file.stat().st_ino
    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING, "tile_backend"):
        belongs_to(STRANGER, patch, file)
        patch.setattr(pattern_file, "unpacked", lambda *_: pytest.fail("read"))
        assert seen(again()) == seen(made)
    assert "belongs to user" in caplog.text
    assert file.stat().st_ino != before
    monkeypatch.setattr(pattern_cache, "patterns", lambda _: pytest.fail("traced again"))
    assert seen(again()) == seen(made)


# --- compiled kernels -----------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path) -> Store:
    cubin_store._warn.cache_clear()
    return Store(tmp_path / "kernels")


@pytest.mark.parametrize("what", ("file", "folder"))
def test_a_planted_kernel_is_not_run_and_replaced(
    store: Store, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole one, under the right key: only who wrote it tells it from ours."""
    store.put(KEY, VERSION, dataclasses.replace(CUBIN, symbol="planted"))
    store.put(OTHER, VERSION, CUBIN)
    culprit = store.path(KEY, VERSION) if what == "file" else store.folder
    belongs_to(STRANGER, monkeypatch, culprit)
    words = f"{culprit} is not trusted: .*compiled again"
    with pytest.warns(StoreWarning, match=words) as caught:
        found = [store.get(KEY, VERSION), store.get(KEY, None), store.get(OTHER, VERSION)]
    assert found == [None, None, CUBIN if what == "file" else None]
    assert len(caught) == 1, "once for what is wrong, not for each kernel"
    assert store.put(KEY, VERSION, CUBIN)
    if what == "file":
        assert store.get(KEY, VERSION) == CUBIN


def test_a_kernel_that_others_may_write_is_not_run(store: Store) -> None:
    store.put(KEY, VERSION, CUBIN)
    store.path(KEY, VERSION).chmod(0o664)
    with pytest.warns(StoreWarning, match="others may write to it; mend it with chmod go-w"):
        assert store.get(KEY, VERSION) is None
    store.put(KEY, VERSION, CUBIN)
    assert store.get(KEY, VERSION) == CUBIN


def test_a_link_to_a_kernel_is_not_run(store: Store) -> None:
    store.put(OTHER, VERSION, CUBIN)
    store.path(KEY, VERSION).symlink_to(store.path(OTHER, VERSION))
    with pytest.warns(StoreWarning, match="symbolic link"):
        assert store.get(KEY, VERSION) is None
    store.put(KEY, VERSION, CUBIN)
    assert store.get(KEY, VERSION) == store.get(OTHER, VERSION) == CUBIN
    assert not store.path(KEY, VERSION).is_symlink()


# --- measurements ---------------------------------------------------------------------------------


@pytest.fixture
def folder(tuning: Path) -> Path:
    return tuning


NONSENSE = {
    "deep": "[" * 100_000,
    "a date": tuning_file.text_of(ARCH, [entry(1024)]).replace("2026-01-31", "yesterday"),
    "a huge time": tuning_file.text_of(ARCH, [entry(1024)]).replace("2.125", f"1{'0' * 400}"),
    "a path": tuning_file.text_of(ARCH, [entry(1024, kind="../../../setup x=1")]),
    "a nul": tuning_file.text_of(ARCH, [entry(1024, kind="\0 x=1")]),
    "a long name": tuning_file.text_of(ARCH, [entry(1024, kind="x" * 5000)]),
}


@pytest.mark.parametrize("name", NONSENSE)
@pytest.mark.parametrize("sealed", (True, False))
def test_nonsense_costs_a_warning_at_most(name: str, sealed: bool, folder: Path) -> None:
    text = NONSENSE[name] if sealed else re.sub(r',\n *"sha256": "\w+"', "", NONSENSE[name])
    folder.mkdir()
    (folder / "sm_90.json").write_text(text)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", tuning_store.TuningWarning)
        assert found(1024) == []
        tuning_store.counts()
        assert tuning_store.record(ARCH, [entry(1024)])
    assert found(1024) == [1024]


@pytest.mark.parametrize("what", ("file", "folder"))
def test_what_another_user_measured_does_not_count_and_stays(
    what: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuning_store.record(ARCH, [entry(1024)])
    path = folder / "sm_90.json"
    before = path.read_bytes()
    belongs_to(STRANGER, monkeypatch, path if what == "file" else folder)
    with pytest.warns(tuning_store.TuningWarning, match="do not count: .* belongs to user") as seen:
        assert [found(1024), found(1024)] == [[], []]
    assert len(seen) == 1
    with pytest.warns(tuning_store.TuningWarning, match="cannot be kept in .* belongs to user"):
        assert not tuning_store.record(ARCH, [entry(4096)])
    assert path.read_bytes() == before


def test_what_others_may_write_counts_once_it_is_mended(folder: Path) -> None:
    tuning_store.record(ARCH, [entry(1024)])
    path = folder / "sm_90.json"
    path.chmod(0o666)
    with pytest.warns(tuning_store.TuningWarning, match=f"chmod go-w {path}"):
        assert found(1024) == []
    path.chmod(0o644)
    assert found(1024) == [1024]
