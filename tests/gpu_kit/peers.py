"""The wheels of the libraries that `bench.fusions` and `bench.models` compare with, for a kit.

Without what they require: torch, triton and transformers are the machine's own. A kit without them
is complete; the rows of the benches then say that the library is not installed.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

PEERS = ("tilegym==1.5.1", "liger-kernel==0.8.5")
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")

Run = Callable[[Sequence[str]], str]


def download(command: Sequence[str]) -> str:
    """What pip said where it failed, in one line; "" where it did not."""
    done = subprocess.run((*PIP, *command), capture_output=True, text=True, check=False)
    said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
    return (said or ["pip failed"])[-1] if done.returncode else ""


def pack(target: Path, run: Run = download) -> dict[str, str]:
    """Put what can be had into the folder; by name the size, or why it is not there."""
    found = {}
    for name in PEERS:
        before = set(target.iterdir())
        failed = run(("download", "--no-deps", "--only-binary=:all:", "--dest", str(target), name))
        fresh = set(target.iterdir()) - before
        size = sum(path.stat().st_size for path in fresh) / 2**20
        found[name] = f"not packed: {failed}" if failed else f"{size:.1f} MiB"
    return found
