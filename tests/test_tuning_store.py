"""Measurements on disk: several processes, damage, other GPUs and other code."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import signal
import stat
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest

from tests.disk_faults import STEPS, at, cuts, flips
from tile_backend import pipeline
from tile_backend.lowering import tuning_file, tuning_store
from tile_backend.lowering.tuning_entry import Circumstances, Entry, Kind, Spread
from tile_backend.lowering.tuning_sources import files_behind, sources_behind, sources_of
from tile_backend.options import Options

ARCH = "sm_90"
TEXT = "rms_norm x=bf16[4096] weight=bf16[4096] rounding=once"
HERE = Circumstances(
    "2026-01-31", "A GPU", "1.0", "2.13.0", "1.7.0", "13.4", sources_of("rms_norm")
)


def entry(least: int = 1024, gpu: str = "A GPU", **changes: object) -> Entry:
    """A made-up one: two configurations at `least` rows."""
    times = {"default": Spread(2.0, 1.9, 2.125, 20), "rows=2": Spread(1.0, 0.9, 1.1, 20)}
    made = Entry(
        sort="configuration",
        kind=TEXT,
        ranges={"rows": (least, 2 * least - 1)},
        at={"rows": least},
        times=times,
        chosen="rows=2",
        circumstances=dataclasses.replace(HERE, gpu=gpu),
    )
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]


def kind(rows: int, least: int | None = None, most: int | None = None) -> Kind:
    ranges = ({"rows": least}, {"rows": most}) if least is not None and most is not None else ()
    return Kind(TEXT, {"rows": rows}, *ranges)


@pytest.fixture(autouse=True)
def folder(tuning: Path) -> Path:
    return tuning


def found(rows: int, gpu: str = "A GPU", **given: int) -> list[int]:
    entries = tuning_store.find(ARCH, gpu, "configuration", kind(rows, **given))
    return [found.entry.at["rows"] for found in entries]


def test_what_was_recorded_is_found_where_it_counts(folder: Path) -> None:
    assert tuning_store.record(ARCH, [entry(1024), entry(4096), entry(1024, gpu="Another")])
    assert found(1024) == found(2047) == [1024]
    assert found(2048) == []
    assert found(512) == []
    assert found(1500, least=2, most=4096) == [1024, 4096], "either may be met"
    assert tuning_store.find("sm_100", "A GPU", "configuration", kind(1024)) == []
    assert tuning_store.find(ARCH, "A GPU", "gate", kind(1024)) == []
    assert len(tuning_store.find(ARCH, "", "configuration", kind(1024))) == 2


def test_other_code_has_no_measurement() -> None:
    old = dataclasses.replace(HERE, sources="0123")
    tuning_store.record(ARCH, [entry(1024, circumstances=old)])
    assert found(1024) == []
    tuning_store.record(ARCH, [entry(1024)])
    assert found(1024) == [1024]


def test_the_code_behind_an_op_is_its_file_and_what_that_imports() -> None:
    norm = {path.name for path in files_behind("rms_norm")}
    assert {"rms_norm.py", "rms.py", "rows.py", "row_layout.py"} <= norm
    assert "attention_tiles.py" not in norm
    assert "attention_tiles.py" in {path.name for path in files_behind("cross_entropy")}


def test_every_kernel_is_behind_a_slice() -> None:
    """Its backward launches rms_norm_grad, say, of which a way does not speak."""
    every = sources_behind("gate", TEXT)
    assert every == sources_of("an op without a file")
    assert sources_behind("configuration", TEXT) == sources_of("rms_norm") != every


def test_a_file_reads_back_as_it_was_written_and_compares_well() -> None:
    entries = [entry(4096), entry(1024), entry(1024, gpu="Another")]
    text = tuning_file.text_of(ARCH, entries)
    assert text == tuning_file.text_of(ARCH, reversed(entries))
    content = tuning_file.read(text, ARCH)
    assert not content.damage
    assert sorted(content.entries, key=tuning_file.key) == sorted(entries, key=tuning_file.key)
    assert sum(1 for line in text.splitlines() if '"median"' in line) == 6
    assert json.loads(text)["format"] == tuning_file.FORMAT


def test_the_shipped_file_is_whole() -> None:
    for path in sorted(tuning_store.SHIPPED.glob("*.json")):
        text = path.read_text()
        content = tuning_file.read(text, path.stem)
        assert not content.damage
        assert text == tuning_file.text_of(path.stem, content.entries), path


def test_shipped_entries_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sm_90.json").write_text(tuning_file.text_of(ARCH, [entry(1024)]))
    monkeypatch.setattr(tuning_store, "SHIPPED", tmp_path)
    tuning_store.record(ARCH, [entry(1024)])
    origins = [f.origin for f in tuning_store.find(ARCH, "A GPU", "configuration", kind(1024))]
    assert origins == ["shipped", "user"]


def test_the_identity_follows_what_is_stored() -> None:
    empty = tuning_store.identity(ARCH)
    tuning_store.record(ARCH, [entry(1024)])
    first = tuning_store.identity(ARCH)
    assert first != empty == tuning_store.identity(ARCH).replace(first, empty)
    tuning_store.record(ARCH, [entry(2048)])
    assert tuning_store.identity(ARCH) not in (first, empty)
    assert tuning_store.identity("sm_100") != tuning_store.identity(ARCH)


DAMAGE = {
    "cut off": (lambda text: text[: text.rindex('"circumstances"')], [1024], "no JSON"),
    "a conflict": (lambda text: text.replace("  ]\n}", "<<<<<<<"), [1024, 4096], "no JSON"),
    "a bad time": (lambda text: text.replace("2.125", '"fast"', 1), [4096], "1 of its 2 entries"),
    "not in order": (lambda text: text.replace("2.125", "0.5", 1), [4096], "1 of its 2 entries"),
    "no choice": (lambda text: text.replace('"chosen"', '"choice"', 1), [4096], "1 of its 2"),
    "later format": (lambda text: text.replace('"format": 1', '"format": 2'), [], "format is 2"),
    "another GPU": (lambda text: text.replace('"sm_90"', '"sm_80"'), [], "'sm_80'"),
    "no text": (lambda text: "\x00\xff", [], "no JSON"),
    "no list": (lambda text: "[]", [], "no list"),
    "empty": (lambda text: "", [], "no JSON"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_costs_what_is_damaged_and_one_warning(name: str, folder: Path) -> None:
    spoil, rows, words = DAMAGE[name]
    tuning_store.record(ARCH, [entry(1024), entry(4096)])
    path = folder / "sm_90.json"
    spoilt = spoil(path.read_text())
    path.write_text(spoilt)
    with pytest.warns(tuning_store.TuningWarning, match=words) as seen:
        read = [found(1024, least=1, most=8192) for _ in range(2)]
    assert read == [rows, rows]
    assert len(seen) == 1
    assert str(path) in str(seen[0].message)
    with pytest.warns(tuning_store.TuningWarning, match="is kept in"):
        tuning_store.record(ARCH, [entry(16384)])
    assert found(1024, least=1, most=20000) == [*rows, 16384]
    (kept,) = folder.glob("*.damaged")
    assert kept.read_text() == spoilt


def content_of(text: str) -> set[str]:
    """What counts of a text, to be compared."""
    return {tuning_file.block(entry) for entry in tuning_file.read(text, ARCH).entries}


def test_a_flipped_bit_or_a_cut_never_changes_a_measurement() -> None:
    whole = tuning_file.text_of(ARCH, [entry(1024), entry(4096)]).encode()
    known = content_of(whole.decode())
    lost = 0
    for changed in (*flips(whole, 600), *cuts(whole, 60)):
        found = content_of(changed.decode("utf-8", "replace"))
        assert found <= known
        lost += found < known
    assert lost > 400


def test_an_entry_that_was_mended_by_hand_counts_without_its_digest(folder: Path) -> None:
    tuning_store.record(ARCH, [entry(1024)])
    path = folder / "sm_90.json"
    changed = path.read_text().replace("2.125", "2.25")
    path.write_text(changed)
    with pytest.warns(tuning_store.TuningWarning, match="1 of its 1 entries"):
        assert found(1024) == []
    lines = [line for line in changed.splitlines() if '"sha256"' not in line]
    path.write_text("\n".join(lines).replace('"}\n    }', '"}}').replace('"},\n    }', '"}}'))
    assert found(1024) == [1024]


@pytest.mark.parametrize("step", STEPS)
def test_a_full_disk_is_one_warning_and_leaves_what_is_there(
    step: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuning_store.record(ARCH, [entry(1024)])
    with monkeypatch.context() as patch:
        at(step, patch)
        with pytest.warns(tuning_store.TuningWarning, match="No space left on device") as seen:
            kept = [tuning_store.record(ARCH, [entry(4096)]) for _ in range(2)]
    assert kept == [False, False]
    assert len(seen) == 1
    assert found(1, least=1, most=8192) == [1024]
    assert not list(folder.glob("*.tmp"))
    assert tuning_store.record(ARCH, [entry(4096)])


def test_a_folder_that_cannot_be_written_is_one_warning(folder: Path) -> None:
    folder.write_text("a file is in its place")
    with pytest.warns(tuning_store.TuningWarning, match=tuning_store.FOLDER) as seen:
        kept = [tuning_store.record(ARCH, [entry(1024)]) for _ in range(2)]
    assert kept == [False, False]
    assert len(seen) == 1
    assert found(1024) == []


def write(folder: str, first: int, count: int) -> None:
    os.environ[tuning_store.FOLDER] = folder
    for index in range(count):
        tuning_store.record(ARCH, [entry(1 << (first + index))])


def test_several_processes_lose_nothing(folder: Path) -> None:
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=write, args=(str(folder), 8 * i, 8)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert found(1, least=1, most=1 << 40) == sorted(1 << i for i in range(32))
    assert not list(folder.glob("*.tmp"))


KILLED = """
import sys, os
sys.path.insert(0, {root!r})
from tests.test_tuning_store import entry, tuning_store, ARCH
from tile_backend.lowering import tuning_file
tuning_store.record(ARCH, [entry(1024)])
whole = tuning_file.text_of
def slow(arch, entries):
    text = whole(arch, entries)
    print("writing", flush=True)
    import time; time.sleep(60)
    return text
tuning_file.text_of = slow
tuning_store.record(ARCH, [entry(2048)])
"""


def test_a_process_killed_while_it_writes_leaves_the_file_and_no_lock(folder: Path) -> None:
    script = KILLED.format(root=str(Path(__file__).parents[1]))
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        process.send_signal(signal.SIGKILL)
    assert found(1024) == [1024]
    assert found(2048) == []
    began = time.monotonic()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert tuning_store.record(ARCH, [entry(4096)])
    assert time.monotonic() - began < tuning_store.LOCK_SECONDS
    assert found(1, least=1, most=8192) == [1024, 4096]


def test_files_are_read_once_per_change(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tuning_store.record(ARCH, [entry(1024)])
    found(1024)
    monkeypatch.setattr(tuning_file, "read", lambda *_: pytest.fail("read again"))
    assert found(1024) == [1024]
    assert stat.S_ISREG((folder / "sm_90.json").stat().st_mode)


def test_what_the_doctor_says_of_it() -> None:
    assert tuning_store.counts() == {}
    old = dataclasses.replace(HERE, sources="0123")
    tuning_store.record(ARCH, [entry(1024), entry(4096, circumstances=old)])
    tuning_store.record("sm_80", [entry(1024)])
    assert tuning_store.counts() == {"sm_80": (1, 0), "sm_90": (2, 1)}


def test_compiled_code_is_not_taken_for_that_of_other_measurements() -> None:
    before = pipeline.identity(Options())
    assert pipeline.identity(Options()) == before
    tuning_store.record(pipeline.architectures()[0], [entry(1024)])
    assert pipeline.identity(Options()) != before
