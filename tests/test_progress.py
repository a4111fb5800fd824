"""Progress bars: every item comes through, on a terminal with a bar, elsewhere without a word."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tile_backend.lowering.progress import track

SCRIPT = """
import time
from tile_backend.lowering import progress
progress.PATIENCE = {patience}
for item in progress.track([1, 2, 3], "kernels"):
    time.sleep(0.2)
print("done")
"""


def test_nothing_is_written_without_a_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    assert list(track(iter("abc"), "letters")) == ["a", "b", "c"]
    assert capfd.readouterr() == ("", "")


def test_what_ends_early_is_closed() -> None:
    seen: list[str] = []

    def letters() -> Iterator[str]:
        try:
            yield from "abc"
        finally:
            seen.append("closed")

    for letter in track(letters(), "letters"):
        seen.append(letter)
        break
    assert seen[0] == "a"


@pytest.mark.parametrize(("patience", "shown"), ((0.0, True), (60.0, False)))
def test_a_terminal_gets_a_bar_where_it_takes_time(patience: float, shown: bool) -> None:
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "80"}
    script = [sys.executable, "-c", SCRIPT.format(patience=patience)]
    with subprocess.Popen(script, stdout=subprocess.PIPE, stderr=theirs, env=environment) as run:
        os.close(theirs)
        written = read_all(ours)
        assert run.stdout is not None
        assert run.stdout.read() == b"done\n"
    assert run.returncode == 0
    assert ("tilegym: kernels" in written) == shown
    assert ("2/3" in written) == shown


def read_all(descriptor: int) -> str:
    found = b""
    while True:
        try:
            part = os.read(descriptor, 4096)
        except OSError:  # Linux: nobody has the other end any more
            break
        if not part:
            break
        found += part
    os.close(descriptor)
    return found.decode()
