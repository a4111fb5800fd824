"""What a cubin says of its resources, through NVIDIA's own cuobjdump.

It comes from a wheel (the `test` extra has it), or from a CUDA toolkit on PATH.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

USAGE = re.compile(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)")
THREADS = re.compile(r"EIATTR_(?:REQNTID|MAX_THREADS)\s*\n.*\n\s*Value:\s*((?:0x[0-9a-f]+ ?)+)")


@dataclasses.dataclass(frozen=True)
class Usage:
    """Per thread: registers, and bytes of stack and other local memory. Per block: the rest."""

    registers: int
    local: int
    shared: int
    threads: int


@functools.cache
def tool(name: str) -> str:
    """The path of one of NVIDIA's binary utilities."""
    bundled = Path(sysconfig.get_path("purelib"), "nvidia", "cu13", "bin", name)
    path = str(bundled) if bundled.is_file() else shutil.which(name)
    if path is None:
        raise FileNotFoundError(
            f"{name} is not installed: pip install nvidia-cuda-{name}, or put CUDA's tools on PATH"
        )
    return path


def said(name: str, *arguments: str) -> str:
    """What the tool writes; CalledProcessError where it fails."""
    return subprocess.run(
        [tool(name), *arguments], capture_output=True, text=True, check=True
    ).stdout


def usage(path: Path) -> Usage:
    """Of the one kernel in a cubin."""
    resources = USAGE.findall(said("cuobjdump", "-res-usage", str(path)))
    assert len(resources) == 1, f"{path} holds {len(resources)} kernels"
    registers, stack, shared, local = map(int, resources[0])
    required = THREADS.search(said("cuobjdump", "-elf", str(path)))
    assert required, f"{path} does not say how many threads it needs"
    threads = math.prod(int(n, 16) for n in required[1].split())
    return Usage(registers, stack + local, shared, threads)
