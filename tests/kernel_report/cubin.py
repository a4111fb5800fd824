"""What a cubin says of its instructions, through NVIDIA's own reader, nvdisasm.

A disassembly takes 0.2 to 0.5 s, so only what needs one is disassembled; resource usage
(lowering/cubin_usage) takes milliseconds.
"""

from __future__ import annotations

import collections
import functools
import re
from collections.abc import Mapping
from pathlib import Path

from tile_backend.lowering.cubin_usage import said

INSTRUCTION = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9]*)", re.M)
VERSION = re.compile(r"\bV(\d+\.\d+\.\d+)")


@functools.cache
def version(name: str) -> str:
    """That the tool says of itself, such as "13.4.92"."""
    found = VERSION.search(said(name, "--version"))
    assert found, f"{name} --version does not name a version"
    return found[1]


def opcodes(path: Path) -> Mapping[str, int]:
    """How often each instruction occurs, without its suffixes: HGMMA, LDL, ..."""
    return collections.Counter(INSTRUCTION.findall(said("nvdisasm", "-c", "-ndf", str(path))))
