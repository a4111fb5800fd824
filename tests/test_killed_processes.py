"""Four processes share one cold cache, and one of them is killed at each step of its write.

The fault is injected: the process kills itself before it makes the temporary file, when half of the
content is in it, before it is moved, and after that. What the others get is right, what a later
process gets is right, nobody reads half a file, and what is left behind is one temporary file that
nobody reads, which the next process that writes there deletes once it is old.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.disk_faults import KILLS, at, killed
from tests.fake_compiler import FAKE_CUBIN, WRITE, Tileiras
from tests.report_samples import FACTS, declined, near_miss, norm
from tests.test_cubin_store import CUBIN, KEY, VERSION
from tests.test_kernel_build import build
from tests.test_pattern_file import seen
from tests.test_tuning_store import ARCH, entry, found
from tile_backend import pattern_cache
from tile_backend.lowering import atomic_write, tuning_store
from tile_backend.lowering.cubin_store import Store
from tile_backend.lowering.trace import patterns
from tile_backend.patterns import all_fusions
from tile_backend.report import Report

PROCESSES = 4
LEFT = {"open": 0, "write": 1, "replace": 1, "after": 0}
"""Temporary files of a process that was killed at that step."""
FORK = multiprocessing.get_context("fork")
SOFTMAX = next(fusion for fusion in all_fusions() if fusion.name == "softmax")
Work = Callable[[int], None]


@pytest.fixture(params=KILLS)
def step(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def together(work: Work, step: str, cold: bool = False) -> None:
    """Run `work(number)` in processes that start at once; number 0 is killed at that step.

    cold: none of them writes before all have found that there is nothing. An assertion that fails
    in one of the others fails here.
    """
    start, first = FORK.Barrier(PROCESSES), FORK.Barrier(PROCESSES)
    replaced = atomic_write.replaced

    def waiting(path: Path, mode: int = 0o666) -> Any:
        atomic_write.replaced = replaced
        first.wait(60)
        return replaced(path, mode)

    def run(number: int) -> None:
        if number == 0:
            at(step, pytest.MonkeyPatch(), killed)
        if cold:
            atomic_write.replaced = waiting
        start.wait(60)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            work(number)

    ends(work=run, count=PROCESSES)


def ends(work: Work, count: int) -> None:
    """Processes 0 to count - 1, of which the first is killed and the others end well."""
    processes = [FORK.Process(target=work, args=(number,)) for number in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [-signal.SIGKILL, *[0] * (count - 1)]


def left(folder: Path) -> list[Path]:
    """The temporary files, which are ours, old from now on."""
    files = [path for path in folder.rglob("*") if path.name.endswith(".tmp")]
    for path in files:
        assert atomic_write.TEMPORARY.fullmatch(path.name)
        os.utime(path, (0, 0))
    return files


# --- traced patterns ------------------------------------------------------------------------------


def test_traced_patterns(step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    some = (SOFTMAX,)
    traced = tuple(patterns(SOFTMAX))
    known = seen(traced)
    monkeypatch.setattr(pattern_cache, "patterns", lambda _: traced)  # again would take longer

    def work(_: int) -> None:
        assert seen(tuple(pattern_cache.built_in.__wrapped__(some))) == known

    together(work, step, cold=True)
    with monkeypatch.context() as patch:
        patch.setattr(pattern_cache, "patterns", lambda _: pytest.fail("traced again"))
        work(0)
    assert len(left(tmp_path)) == LEFT[step]
    path = pattern_cache.path()
    assert path is not None
    path.unlink()
    work(0)
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == [path]


# --- compiled kernels -----------------------------------------------------------------------------


def test_compiled_kernels(step: str, tileiras: Tileiras) -> None:
    """Each finds the store empty and compiles; whoever is last wins."""

    def work(_: int) -> None:
        assert build().image == FAKE_CUBIN

    together(work, step, cold=True)
    log = tileiras.command.with_suffix(".log")
    assert log.read_text().count("--lineinfo") == PROCESSES
    work(0)
    assert log.read_text().count("--lineinfo") == PROCESSES, "it is in the store"
    assert len(left(tileiras.store)) == LEFT[step]
    build("sm_80")
    assert sorted(path.suffix for path in tileiras.store.iterdir()) == [".xz", ".xz"]


def test_a_process_killed_in_the_middle_of_a_compile(
    tileiras: Tileiras, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its compiler goes on alone in a folder of its own, which stays behind."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    begun = tmp_path / "begun"
    tileiras.compiles_with(f"echo $$ > {begun}; exec sleep 600")
    process = FORK.Process(target=build)
    process.start()
    while not (begun.exists() and begun.read_text().strip()):
        time.sleep(0.01)
    process.kill()
    process.join(60)
    try:
        tileiras.compiles_with(WRITE)
        assert build().image == FAKE_CUBIN
        assert len(list(tmp_path.glob("tile-backend-*"))) == 1
    finally:
        os.kill(int(begun.read_text()), signal.SIGKILL)


def test_a_store_without_a_compiler(step: str, tmp_path: Path) -> None:
    """What every process puts there is got by every other, whichever of them dies."""

    def work(_: int) -> None:
        store = Store(tmp_path)
        assert store.put(KEY, VERSION, CUBIN)
        assert store.get(KEY, None) == store.get(KEY, VERSION) == CUBIN

    together(work, step)
    assert Store(tmp_path).get(KEY, None) == CUBIN
    assert len(left(tmp_path)) == LEFT[step]


# --- measurements ---------------------------------------------------------------------------------


def test_measurements(step: str, tuning: Path) -> None:
    """The lock of the process that dies is free; its entry is there only if it was moved."""

    def work(number: int) -> None:
        assert tuning_store.record(ARCH, [entry(1 << number)])
        assert 1 << number in found(1, least=1, most=64)

    together(work, step)
    expected = [1 << number for number in range(PROCESSES) if number or step == "after"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert found(1, least=1, most=64) == expected
        assert len(left(tuning)) == LEFT[step]
        assert tuning_store.record(ARCH, [entry(32)])
    assert found(1, least=1, most=64) == [*expected, 32]
    assert {path.name for path in tuning.iterdir()} == {"sm_90.json", ".sm_90.json.lock"}


# --- a dump ---------------------------------------------------------------------------------------


def content(folder: Path) -> dict[str, bytes]:
    """Of every file of a dump, by its path in it."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".tmp")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_a_dump(step: str, tmp_path: Path) -> None:
    texts = {"before": "a = 1\n", "after": "b = 1\n"}
    sites = [norm("a"), norm("b"), declined("c"), near_miss("d")]
    report = Report("f").extended(sites, FACTS, texts)
    expected = content(report.save(tmp_path / "alone"))
    folder = tmp_path / "shared"

    def work(_: int) -> None:
        report.save(folder)
        assert content(folder) == expected

    together(work, step)
    assert content(folder) == expected
    assert len(left(folder)) == LEFT[step]
    report.save(folder)
    assert content(folder) == expected
    fewer = Report("f").extended(sites[:1], FACTS, texts)
    assert content(fewer.save(folder)) == content(fewer.save(tmp_path / "fewer"))
    assert not left(folder)


def test_a_diverged_result(step: str, tmp_path: Path) -> None:
    """A write through a file object, as torch.save does it; whoever is last wins whole."""

    def work(number: int) -> None:
        with atomic_write.replaced(tmp_path / "tensors.pt") as file:
            file.write(bytes([number]) * 100_000)

    together(work, step)
    read = (tmp_path / "tensors.pt").read_bytes()
    assert len(read) == 100_000
    assert len(set(read)) == 1
    assert len(left(tmp_path)) == LEFT[step]


def test_an_exception_leaves_what_was_there(tmp_path: Path) -> None:
    """A write that ends in any other way than by a kill leaves no temporary file either."""
    path = tmp_path / "file"
    path.write_bytes(b"before")

    def write(error: BaseException) -> Any:
        with atomic_write.replaced(path) as file:
            file.write(b"half")
            raise error

    for error in (KeyboardInterrupt(), SystemExit(1), ValueError()):
        with pytest.raises(type(error)):
            write(error)
        assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"before"]
