"""`make` says what it can do, and one sentence where it cannot; nothing is installed here."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.lint.source_tree import ROOT

HANDED_ON = set(
    "MAKEFLAGS MAKELEVEL ARGS CONSTRAINTS PYTHON TORCH TRANSFORMERS VENV WORKERS".split()
)
"""To the tests, where make was given them on its command line."""


def make(*arguments: str) -> tuple[int, str]:
    """Exit status and output of make, without the variables of a make that runs these tests."""
    environment = {n: v for n, v in os.environ.items() if n not in HANDED_ON}
    result = subprocess.run(
        ["make", *arguments],
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
