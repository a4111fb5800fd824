"""The store of compiled kernels: what it gives back, what it refuses, what a disk can do to it."""

from __future__ import annotations

import dataclasses
import lzma
import multiprocessing
import os
import pathlib
import time
import warnings

import pytest

from tests import disk_faults
from tile_backend.lowering import cubin_store
from tile_backend.lowering.cubin_file import ELF, SUFFIX, Cubin, Key, pack, unpack
from tile_backend.lowering.cubin_store import Store, StoreWarning
from tile_backend.lowering.own_file import DamagedError

KEY = Key("rms_norm", "sm_90", "0123456789abcdef" * 2)
OTHER = dataclasses.replace(KEY, digest="f" * 32)
CUBIN = Cubin(ELF + bytes(range(256)) * 64, "rms_norm_K2_A2bf16")
VERSION = "13.4.92"


@pytest.fixture(autouse=True)
def forgetful() -> None:
    """Every test may warn about what an earlier one warned about."""
    cubin_store._warn.cache_clear()
    cubin_store._opened.cache_clear()


@pytest.fixture
def store(tmp_path: pathlib.Path) -> Store:
    return Store(tmp_path / "not" / "there" / "yet")


def test_what_is_put_is_got_by_any_process(store: Store) -> None:
    assert store.get(KEY, VERSION) is None
    assert store.put(KEY, VERSION, CUBIN)
    assert Store(store.folder).get(KEY, VERSION) == CUBIN
    assert store.get(OTHER, VERSION) is None
    assert store.get(KEY, "13.5.1") is None
    (file,) = store.folder.iterdir()
    assert file.name == f"rms_norm-sm_90-{KEY.digest}-13.4.92.cubin.xz"
    assert file.stat().st_size < len(CUBIN.image) // 4


def test_without_a_compiler_the_newest_will_do(store: Store) -> None:
    for version in ("13.4.92", "13.10.1", "13.5.7"):
        store.put(KEY, version, dataclasses.replace(CUBIN, symbol=version))
    found = store.get(KEY, None)
    assert found is not None
    assert found.symbol == "13.10.1"
    assert store.get(OTHER, None) is None


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def repacked(text: bytes, check: int = lzma.CHECK_SHA256) -> bytes:
    return lzma.compress(text, check=check)


GOOD = pack(KEY, VERSION, CUBIN)
HEAD = lzma.decompress(GOOD).partition(b"\n")[0]
DAMAGE: dict[str, tuple[bytes, str]] = {
    "a flipped bit": (flipped(GOOD), "does not unpack"),
    "cut off": (GOOD[:-7], "cut off"),
    "empty": (b"", "cut off"),
    "something after it": (GOOD + b"more", "too long"),
    "no xz": (b"\x7fELF not packed", "does not unpack"),
    "unchecked": (repacked(lzma.decompress(GOOD), lzma.CHECK_CRC32), "not checked by SHA-256"),
    "another program's": (repacked(b"hello\nworld"), "not written by this version"),
    "no header": (repacked(ELF * 100), "not written by this version"),
    "of another version": (
        repacked(HEAD.replace(b"cubin 1", b"cubin 0") + b"\n" + CUBIN.image),
        "not written by this version",
    ),
    "another kernel": (pack(OTHER, VERSION, CUBIN), r"another kernel \(digest differs\)"),
    "another architecture": (
        pack(dataclasses.replace(KEY, arch="sm_80"), VERSION, CUBIN),
        r"another kernel \(arch differs\)",
    ),
    "no cubin": (pack(KEY, VERSION, Cubin(b"text", "s")), "no cubin"),
    "a bomb": (repacked(HEAD + b"\n" + ELF + bytes(1 << 26)), "too long"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_or_foreign_file_is_ignored_and_replaced(store: Store, what: str) -> None:
    content, words = DAMAGE[what]
    store.put(KEY, VERSION, CUBIN)
    store.path(KEY, VERSION).write_bytes(content)
    with pytest.raises(DamagedError, match=words):
        unpack(KEY, content)
    with pytest.warns(StoreWarning, match=rf"{KEY.digest}.* is ignored: .*{words}.*compiled again"):
        assert store.get(KEY, VERSION) is None
    assert store.put(KEY, VERSION, CUBIN)
    assert store.get(KEY, VERSION) == CUBIN


def test_no_flipped_bit_and_no_cut_goes_unnoticed() -> None:
    for changed in (*disk_faults.flips(GOOD, 600), *disk_faults.cuts(GOOD, 60)):
        with pytest.raises(DamagedError):
            unpack(KEY, changed)


def test_without_a_compiler_an_older_file_serves_for_a_damaged_one(store: Store) -> None:
    store.put(KEY, "13.4.92", CUBIN)
    store.path(KEY, "13.5.1").write_bytes(b"")
    with pytest.warns(StoreWarning, match=r"13.5.1.*is ignored"):
        assert store.get(KEY, None) == CUBIN


@pytest.mark.parametrize("step", disk_faults.STEPS)
def test_a_disk_that_refuses_costs_one_warning(
    store: Store, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk_faults.at(step, monkeypatch)
    with pytest.warns(StoreWarning, match=r"cannot be kept in .*No space left.*TILEGYM_KERNEL_STO"):
        assert not store.put(KEY, VERSION, CUBIN)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not store.put(OTHER, VERSION, CUBIN)
    monkeypatch.undo()
    assert store.get(KEY, VERSION) == CUBIN, "this process still has it"
    assert store.get(KEY, None) == CUBIN
    assert Store(store.folder).get(KEY, VERSION) is None
    assert not store.folder.exists() or list(store.folder.iterdir()) == []


def test_a_file_where_the_folder_should_be(tmp_path: pathlib.Path) -> None:
    (tmp_path / "kernels").write_text("a file")
    store = Store(tmp_path / "kernels")
    with pytest.warns(StoreWarning, match="cannot be kept in"):
        assert not store.put(KEY, VERSION, CUBIN)
    assert Store(store.folder).get(KEY, VERSION) is None
    assert Store(store.folder).get(KEY, None) is None


def test_what_cannot_be_read_is_not_there(store: Store) -> None:
    store.put(KEY, VERSION, CUBIN)
    store.path(KEY, VERSION).unlink()
    store.path(KEY, VERSION).mkdir()
    with pytest.warns(StoreWarning, match="is ignored: Is a directory"):
        assert store.get(KEY, VERSION) is None


def test_a_folder_that_is_only_read_works(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    store.put(KEY, VERSION, CUBIN)
    monkeypatch.setattr(os, "utime", read_only)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert store.get(KEY, VERSION) == CUBIN


def aged(store: Store, key: Key, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(store.path(key, VERSION), (then, then))


def test_what_was_used_longest_ago_goes_first(tmp_path: pathlib.Path) -> None:
    keys = [dataclasses.replace(KEY, digest=f"{n:032x}") for n in range(8)]
    store = Store(tmp_path, limit=5 * len(GOOD))
    for age, key in enumerate(reversed(keys[:4]), start=1):
        store.put(key, VERSION, CUBIN)
        aged(store, key, 100.0 * age)
    assert store.get(keys[0], VERSION) == CUBIN  # the oldest, and used just now
    (tmp_path / "notes.txt").write_text("not ours")
    (tmp_path / ".1.dead.tmp").write_text("left by a process that died")
    os.utime(tmp_path / ".1.dead.tmp", (0, 0))
    (tmp_path / ".2.feed.tmp").write_text("being written")
    for key in keys[4:6]:
        store.put(key, VERSION, CUBIN)
    kept = [key for key in keys if store.path(key, VERSION).exists()]
    assert kept == [keys[0], keys[4], keys[5]]
    assert sum(size for _, size, _ in store.files()) <= store.limit
    others = {path.name for path in tmp_path.iterdir() if not path.name.endswith(SUFFIX)}
    assert others == {"notes.txt", ".2.feed.tmp"}


def test_a_limit_of_nothing_keeps_nothing_on_disk(tmp_path: pathlib.Path) -> None:
    store = Store(tmp_path, limit=0)
    assert not store.put(KEY, VERSION, CUBIN)
    assert store.get(KEY, VERSION) == CUBIN
    assert list(tmp_path.iterdir()) == []


def write_and_read(folder: str, seed: int) -> int:
    """One process of many: everyone writes the same few kernels again and again."""
    store = Store(pathlib.Path(folder), limit=6 * len(GOOD))
    found = 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for turn in range(150):
            key = dataclasses.replace(KEY, digest=f"{(turn * 7 + seed) % 9:032x}")
            store.put(key, VERSION, CUBIN)
            read = store.get(key, VERSION)
            assert read in (None, CUBIN)  # None: another process made room
            found += read == CUBIN
    return found


def test_many_processes_write_at_once(tmp_path: pathlib.Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    with spawn.Pool(4) as pool:
        found = pool.starmap(write_and_read, [(str(tmp_path), seed) for seed in range(4)])
    assert min(found) > 100
    assert {path.suffixes[-1] for path in tmp_path.iterdir()} == {".xz"}, "no half-written file"
    left = Store(tmp_path)
    for _, _, path in left.files():
        digest = path.name.split("-")[2]
        assert left.get(dataclasses.replace(KEY, digest=digest), VERSION) == CUBIN


def test_the_environment_names_folder_and_limit(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TILEGYM_KERNEL_STORE", str(tmp_path))
    monkeypatch.setenv("TILEGYM_KERNEL_STORE_MIB", "3")
    store = cubin_store.default()
    assert (store.folder, store.limit) == (tmp_path, 3 << 20)
    assert cubin_store.default() is store
    monkeypatch.setenv("TILEGYM_KERNEL_STORE_MIB", "a lot")
    with pytest.warns(StoreWarning, match="'a lot' is not a whole number of MiB; 1024 is used"):
        assert cubin_store.default().limit == 1 << 30


@pytest.mark.parametrize(
    ("variables", "folder"),
    (
        ({"XDG_CACHE_HOME": "/var/cache/me"}, "/var/cache/me/tile-backend/kernels"),
        ({"XDG_CACHE_HOME": "relative", "HOME": "/me"}, "/me/.cache/tile-backend/kernels"),
        ({"HOME": "/me"}, "/me/.cache/tile-backend/kernels"),
        ({"HOME": "/me", "TILEGYM_KERNEL_STORE": "~/store"}, "/me/store"),
    ),
)
def test_where_the_store_lies(
    variables: dict[str, str], folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("XDG_CACHE_HOME", "TILEGYM_KERNEL_STORE", "TILEGYM_KERNEL_STORE_MIB"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert cubin_store.default().folder == pathlib.Path(folder)


def test_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless(path: pathlib.Path) -> pathlib.Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("TILEGYM_KERNEL_STORE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(pathlib.Path, "expanduser", homeless)
    with pytest.warns(StoreWarning, match="no home folder .* name one with TILEGYM_KERNEL_STORE"):
        store = cubin_store.default()
    assert not store.put(KEY, VERSION, CUBIN)
    assert store.get(KEY, VERSION) == CUBIN
