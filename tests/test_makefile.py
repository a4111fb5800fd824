"""`make` says what it can do, and one sentence where it cannot; nothing is installed here."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.lint.source_tree import ROOT

HANDED_ON = set(
    "MAKEFLAGS MAKELEVEL ARGS CONSTRAINTS PYTHON TORCH TRANSFORMERS VENV WORKERS".split()
)
"""To the tests, where make was given them on its command line."""


def make(*arguments: str, path: str = "") -> tuple[int, str]:
    """Exit status and output of make, without the variables of a make that runs these tests.

    path: its PATH, where it is not to be this process's.
    """
    environment = {n: v for n, v in os.environ.items() if n not in HANDED_ON}
    program = shutil.which("make") or "make"
    if path:
        environment["PATH"] = path
    result = subprocess.run(
        [program, *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return result.returncode, result.stdout + result.stderr


def test_make_alone_lists_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (phony,) = re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    _, text = make()
    listed = {line.split()[1] for line in text.splitlines()}
    assert listed == set(phony.split()) - {"compiler"}
    assert all(len(line.split()) > 3 for line in text.splitlines())


def test_a_python_that_does_not_fit_gets_one_sentence(tmp_path: Path) -> None:
    status, text = make("demo", f"VENV={tmp_path / 'venv'}", f"PYTHON={tmp_path / 'no-python'}")
    assert status == 2
    assert "needs Python 3.11 to 3.14 with its venv module; tried" in text
    assert not (tmp_path / "venv").exists()


def test_the_python_that_runs_this_fits() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (check,) = re.findall(r"^fits := (.*)$", makefile, re.MULTILINE)
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


def test_a_missing_compiler_gets_one_sentence(tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    (venv / ".created").touch()
    status, text = make("compiler", f"VENV={venv}", "CXX=no-such-compiler")
    assert status == 2
    assert "needs a C++ compiler with OpenMP and Python's headers: install g++" in text


def program(folder: Path, name: str, text: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)


def without_a_browser(folder: Path, *names: str) -> str:
    """A PATH with nothing but these programs of the machine and what `program` makes there."""
    folder.mkdir(exist_ok=True)
    for name in ("sh", "id", *names):
        (folder / name).symlink_to(shutil.which(name) or name)
    return str(folder)


def test_make_browser_without_apt_says_what_to_do(tmp_path: Path) -> None:
    path = without_a_browser(tmp_path / "bin")
    status, text = make("browser", path=path)
    assert status == 2
    assert "there is no apt-get here: install Chromium and chromedriver yourself" in text


def test_make_browser_without_network_says_what_follows(tmp_path: Path) -> None:
    path = without_a_browser(tmp_path / "bin")
    for name in ("apt-get", "sudo"):
        program(tmp_path / "bin", name, "echo cannot resolve >&2; exit 100")
    status, text = make("browser", path=path)
    assert status == 2
    assert "cannot resolve" in text
    assert "could not install chromium and chromium-driver (no network, or not root?)" in text
    assert "the tests that need them will be skipped" in text


def test_make_browser_asks_for_nothing_that_is_there(tmp_path: Path) -> None:
    path = without_a_browser(tmp_path / "bin")
    program(tmp_path / "bin", "chromium", "echo Chromium 1.2.3")
    program(tmp_path / "bin", "chromedriver", "")
    status, text = make("browser", path=path)
    assert (status, text) == (0, "tile-backend: Chromium 1.2.3 and its driver are installed\n")


def test_without_a_browser_the_summary_names_make_browser(tmp_path: Path) -> None:
    test = "tests/test_dump_browser.py::test_where_nothing_matches_it_says_so"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", test],
        cwd=ROOT,
        env={**os.environ, "PATH": without_a_browser(tmp_path / "bin", "git")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "tests of the dump's page that were not run: 1 (needs Chromium and" in done.stdout
    assert "its driver: make browser)" in done.stdout


def test_test_with_asks_for_both_versions() -> None:
    status, text = make("test-with", "TORCH=2.11.0")
    assert status == 2
    assert "name both versions: make test-with TORCH=2.11.0 TRANSFORMERS=5.17.0" in text


def test_test_with_replaces_what_is_compiled_and_keeps_the_tools() -> None:
    folder = ROOT / ".venv-0.0.1-0.0.2"
    try:
        status, text = make(f"{folder.name}/constraints.txt")
        assert status == 0, text
        pins = (folder / "constraints.txt").read_text(encoding="utf-8").splitlines()
    finally:
        for file in folder.glob("*"):
            file.unlink()
        folder.rmdir()
    assert pins[-2:] == ["torch==0.0.1", "transformers==0.0.2"]
    assert [pin for pin in pins if pin.startswith("cuda-tile==")]
    assert not [pin for pin in pins if pin.startswith("setuptools")]
