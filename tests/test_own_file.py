"""What is read of a cache: files of this user or of root, whoever else may reach the folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.disk_faults import STRANGER, belongs_to
from tile_backend.lowering import atomic_write, own_file
from tile_backend.lowering.own_file import DamagedError, ForeignError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    folder = tmp_path / "cache"
    folder.mkdir(mode=0o755)
    atomic_write.write_whole(folder / "file", b"content", atomic_write.OWN)
    return folder / "file"


def test_what_was_written_is_read(file: Path) -> None:
    assert own_file.read(file) == b"content"


@pytest.mark.parametrize("mask", (0o022, 0o002, 0o000, 0o077))
def test_what_we_write_is_ours_alone_under_every_umask(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        (tmp_path / "cache").mkdir(mode=0o755)
        atomic_write.write_whole(tmp_path / "cache" / "file", b"content", atomic_write.OWN)
    finally:
        os.umask(before)
    assert own_file.read(tmp_path / "cache" / "file") == b"content"


@pytest.mark.parametrize("what", ("file", "folder"))
def test_what_belongs_to_another_user_is_not_read(
    file: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    culprit = file if what == "file" else file.parent
    belongs_to(STRANGER, monkeypatch, culprit)
    words = rf"{culprit} is not trusted: it belongs to user {STRANGER}; use a copy of your own"
    with pytest.raises(ForeignError, match=words):
        own_file.read(file)


def test_what_belongs_to_root_is_read_by_everybody(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    belongs_to(own_file.ROOT, monkeypatch, file, file.parent)
    monkeypatch.setattr(own_file.os, "geteuid", lambda: STRANGER)
    assert own_file.read(file) == b"content"
    belongs_to(STRANGER + 1, monkeypatch, file, file.parent)
    with pytest.raises(ForeignError, match="belongs to user"):
        own_file.read(file)


@pytest.mark.parametrize("mode", (0o664, 0o646, 0o666, 0o620, 0o602))
def test_a_file_that_others_may_write_is_not_read(file: Path, mode: int) -> None:
    file.chmod(mode)
    with pytest.raises(ForeignError, match=rf"others may write to it; .* chmod go-w {file}"):
        own_file.read(file)


@pytest.mark.parametrize("mode", (0o777, 0o757, 0o703))
def test_a_folder_that_everybody_may_write_to_is_not_read(file: Path, mode: int) -> None:
    file.parent.chmod(mode)
    with pytest.raises(ForeignError, match=rf"may write there; .* chmod o-w {file.parent}"):
        own_file.read(file)


@pytest.mark.parametrize("mode", (0o1777, 0o775, 0o700))
def test_a_folder_in_which_files_bear_their_owners_is_read(file: Path, mode: int) -> None:
    file.parent.chmod(mode)
    assert own_file.read(file) == b"content"


def test_a_link_is_not_followed_and_a_linked_folder_is(file: Path, tmp_path: Path) -> None:
    link = file.with_name("link")
    link.symlink_to(file)
    with pytest.raises(ForeignError, match="symbolic link"):
        own_file.read(link)
    (tmp_path / "elsewhere").symlink_to(file.parent)
    assert own_file.read(tmp_path / "elsewhere" / "file") == b"content"


def test_a_pipe_is_not_waited_for(file: Path) -> None:
    pipe = file.with_name("pipe")
    os.mkfifo(pipe)
    with pytest.raises(ForeignError, match="no regular file"):
        own_file.read(pipe)


def test_a_folder_in_the_way_is_said_as_the_system_does(file: Path) -> None:
    with pytest.raises(IsADirectoryError):
        own_file.read(file.parent)


def test_what_is_not_there_is_not_there(file: Path) -> None:
    for path in (file.with_name("other"), file.parent / "no" / "file"):
        with pytest.raises(FileNotFoundError):
            own_file.read(path)
    with pytest.raises(NotADirectoryError):
        own_file.read(file / "inside")


def test_a_file_without_end_is_not_read_whole(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_file, "LARGEST", 6)
    with pytest.raises(DamagedError, match="larger than"):
        own_file.read(file)


def test_nothing_stays_open(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def count() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before = count()
    own_file.read(file)
    belongs_to(STRANGER, monkeypatch, file)
    for path in (file, file.parent, file.with_name("none")):
        with pytest.raises((ForeignError, OSError)):
            own_file.read(path)
    assert count() == before


def test_only_old_temporary_files_of_ours_are_abandoned(tmp_path: Path) -> None:
    names = (".12.0123abcd.tmp", ".13.0123abcd.tmp", "mine.tmp", ".14.notes.tmp", "file")
    for name in names:
        (tmp_path / name).write_text("half")
        if not name.startswith(".13"):
            os.utime(tmp_path / name, (0, 0))
    (tmp_path / ".15.0123abcd.tmp").mkdir()
    os.utime(tmp_path / ".15.0123abcd.tmp", (0, 0))
    atomic_write.remove_abandoned(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {*names[1:], ".15.0123abcd.tmp"}
    atomic_write.remove_abandoned(tmp_path / "not there")
