"""What a cubin says of itself, through NVIDIA's own readers: cuobjdump and nvdisasm.

Both come from wheels of the `test` extra, or from a CUDA toolkit on PATH. A disassembly takes
0.2 to 0.5 s, so only what needs one is disassembled; resource usage takes milliseconds.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import math
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Mapping
from pathlib import Path

USAGE = re.compile(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)")
THREADS = re.compile(r"EIATTR_(?:REQNTID|MAX_THREADS)\s*\n.*\n\s*Value:\s*((?:0x[0-9a-f]+ ?)+)")
INSTRUCTION = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9]*)", re.M)
VERSION = re.compile(r"\bV(\d+\.\d+\.\d+)")


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


@functools.cache
def version(name: str) -> str:
    """That the tool says of itself, such as "13.4.92"."""
    found = VERSION.search(said(name, "--version"))
    assert found, f"{name} --version does not name a version"
    return found[1]


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


def opcodes(path: Path) -> Mapping[str, int]:
    """How often each instruction occurs, without its suffixes: HGMMA, LDL, ..."""
    return collections.Counter(INSTRUCTION.findall(said("nvdisasm", "-c", "-ndf", str(path))))
