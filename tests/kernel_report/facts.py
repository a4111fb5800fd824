"""What the compiler made of one sample of one kernel on one architecture, read from its code.

Read once: the result lies beside the code in the kernel store, under the version of this reader
and of its tools.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

from tests import kernel_compile, kernel_remarks
from tests.kernel_compile import Case
from tests.kernel_report import cubin, remarks
from tile_backend.lowering import cubin_store, cubin_usage, multiprocessor
from tile_backend.lowering.cubin_file import Key, unpack
from tile_backend.lowering.kernels import kernel_source, tileiras
from tile_backend.lowering.kernels.build_error import MissingError
from tile_backend.lowering.kernels.signature import signature_for
from tile_backend.lowering.multiprocessor import resident_warps

FACTS = ".facts.json"
READERS = tuple(
    Path(str(file))
    for file in (__file__, *(m.__file__ for m in (cubin, cubin_usage, remarks, multiprocessor)))
)
PRODUCT = "ct.mma("
"""In the source of a kernel that multiplies matrices."""


@dataclasses.dataclass(frozen=True)
class Facts:
    """threads and shared (bytes): per block; registers and local (bytes of local memory): per
    thread; warps: resident per multiprocessor; chosen: the compiler's remarks, counted.

    matrix: it multiplies matrices. opcodes: the instructions of a kernel that does, or that has
    local memory; else empty.
    """

    threads: int
    registers: int
    local: int
    shared: int
    warps: int
    matrix: bool
    chosen: Mapping[str, int]
    opcodes: Mapping[str, int]

    @property
    def spills(self) -> tuple[int, int]:
        """Loads and stores of local memory."""
        return self.opcodes.get("LDL", 0), self.opcodes.get("STL", 0)


def facts_of(cases: Iterable[Case]) -> dict[Case, Facts]:
    """Compiles what is not stored. AssertionError for a kernel that does not compile."""
    wanted = list(cases)
    failed = {str(c): text for c, text in kernel_compile.compile_all(wanted).items() if text}
    assert not failed, f"kernels that do not compile: {failed}"
    folder = {cubin_store.FOLDER: str(kernel_compile.cache_folder())}
    workers = 1 if "PYTEST_XDIST_WORKER" in os.environ else kernel_compile.WORKERS
    with mock.patch.dict(os.environ, folder), ThreadPoolExecutor(workers) as pool:
        return dict(zip(wanted, pool.map(_facts, wanted), strict=True))


def _facts(case: Case) -> Facts:
    launch = kernel_compile.launch_of(case)
    key = launch.kernel.code(signature_for(launch.kernel, launch.args), case.arch).key
    compiler = tileiras.found()
    assert not isinstance(compiler, MissingError)
    path = cubin_store.default().path(key, compiler.version)
    kept = kernel_remarks.beside(path, FACTS)
    with kernel_remarks.turn(path.parent / "locks" / path.name):
        try:
            stored = json.loads(kept.read_text())
        except (FileNotFoundError, ValueError):
            stored = {}
        if stored.pop("reader", None) != reader():
            stored = read(key, path, is_matrix(launch.kernel))
            kept.write_text(json.dumps({"reader": reader(), **stored}))
    return Facts(**stored)


def read(key: Key, path: Path, matrix: bool) -> dict[str, Any]:
    """The fields of Facts, from a file of the store and the remarks beside it."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as image:
        image.write(unpack(key, path.read_bytes()).image)
        image.flush()
        usage = cubin_usage.usage(Path(image.name))
        listed = matrix or usage.local > 0
        opcodes = cubin.opcodes(Path(image.name)) if listed else {}
    warps = resident_warps(key.arch, usage.threads, usage.registers, usage.shared)
    chosen = remarks.chosen(kernel_remarks.beside(path, kernel_remarks.REMARKS).read_text())
    return {
        **dataclasses.asdict(usage),
        "warps": warps,
        "matrix": matrix,
        "chosen": chosen,
        "opcodes": dict(opcodes),
    }


def is_matrix(kernel: Any) -> bool:
    """Whether its source, or what is inlined into it, has a matrix product."""
    return any(PRODUCT in text for text in kernel_source.parts(kernel._pyfunc).values())


@functools.cache
def reader() -> str:
    """The versions of the tools and of the files that read: others read again."""
    text = "".join(path.read_text() for path in READERS)
    tools = " ".join(cubin.version(name) for name in ("cuobjdump", "nvdisasm"))
    return f"{tools} {hashlib.sha256(text.encode()).hexdigest()[:16]}"
